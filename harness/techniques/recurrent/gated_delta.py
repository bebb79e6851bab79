"""A decaying state that is corrected rather than added to, in most layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.recurrent.hybrid import Hybrid


@dataclass(frozen=True)
class GatedDelta(Hybrid):
    """Gated DeltaNet, with full attention in every `full_every`-th layer (Qwen3-Next and Qwen3.5: 4).

    All else stays the model's own: those models' gated attention is another technique. Heads are as many as before,
    keys 0.75 times as wide as the hidden size in sum and values twice that, as in the paper's section 4.

    Source: Yang et al. 2025, sections 3.1 and 3.3.
    """

    paper: ClassVar = "Gated Delta Networks, arXiv 2412.06464"

    def mixer(self) -> dict[str, Any]:
        """Gated DeltaNet."""
        return {"kind": "gated_delta"}
