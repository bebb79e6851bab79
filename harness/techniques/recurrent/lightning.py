"""Linear attention with a fixed decay in most layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.recurrent.hybrid import Hybrid


@dataclass(frozen=True)
class Lightning(Hybrid):
    """Lightning attention, with full attention in every `full_every`-th layer (MiniMax-01: 8).

    All else stays the model's own: MiniMax-01's experts and its weighted residuals are other techniques.

    Source: Qin et al. 2024, section 3.2; MiniMax 2025, section 2.2 for the block and the hybrid.
    """

    paper: ClassVar = "Lightning Attention-2, arXiv 2401.04658; MiniMax-01, arXiv 2501.08313"

    def mixer(self) -> dict[str, Any]:
        """Lightning attention."""
        return {"kind": "lightning"}
