"""Sines and cosines of the place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Sinusoidal(PartTechnique):
    """Added to the embeddings, which are scaled by the root of the hidden size.

    Source: Vaswani et al. 2017, sections 3.4 and 3.5.
    """

    family: ClassVar = "positions"
    paper: ClassVar = "Attention is all you need, arXiv 1706.03762"

    def parts(self) -> dict[str, Any]:
        """The position."""
        return {"position": {"kind": "sinusoidal"}}
