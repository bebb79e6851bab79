"""Layer normalization, to hold other norms against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class LayerNorm(PartTechnique):
    """Mean and spread of each token's numbers, in place of their root mean square alone.

    Source: Ba, Kiros and Hinton 2016, equation 3.
    """

    family: ClassVar = "normalization"
    paper: ClassVar = "Layer normalization, arXiv 1607.06450"

    def parts(self) -> dict[str, Any]:
        """The norm."""
        return {"norm": {"kind": "layer"}}
