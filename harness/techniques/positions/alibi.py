"""Attention with linear biases (ALiBi)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Alibi(PartTechnique):
    """Scores fall linearly with the distance, by a fixed slope for each head.

    Source: Press, Smith and Lewis 2022, section 3. Slower than it need be where a fused kernel takes no biases.
    """

    family: ClassVar = "positions"
    paper: ClassVar = "ALiBi, arXiv 2108.12409"

    def parts(self) -> dict[str, Any]:
        """The position."""
        return {"position": {"kind": "alibi"}}
