"""Trained biases by distance (T5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Relative(PartTechnique):
    """A number for each head and each of `buckets` distances, up to `farthest`, shared by all layers.

    Source: Raffel et al. 2020, section 2.1. Slower than it need be where a fused kernel takes no biases.
    """

    buckets: int = 32
    farthest: int = 128

    family: ClassVar = "positions"
    paper: ClassVar = "T5, arXiv 1910.10683"

    def __post_init__(self) -> None:
        if self.buckets < 2 or self.buckets % 2:
            raise ValueError("buckets must be an even number, half of them for single distances; T5 has 32")
        if self.farthest <= self.buckets // 2:
            raise ValueError("farthest must lie beyond the buckets of single distances: more than buckets / 2")

    def parts(self) -> dict[str, Any]:
        """The position."""
        return {"position": {"kind": "relative", "buckets": self.buckets, "farthest": self.farthest}}
