"""THOR: experts drawn by lot, and a loss that makes them agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.moe.parts import ExpertsTechnique


@dataclass(frozen=True)
class Stochastic(ExpertsTechnique):
    """`experts` as wide as the dense layer, one of which each token visits by lot: there is no router.

    A token meets as many feed-forward weights as before, and there are `experts` times as many. A step of training
    passes its batch twice, which costs twice; `weight` is that of the two predictions' divergence. Source: Zuo et al.
    2021, section 3; dispatch by token where nothing is trained.
    """

    experts: int = 4
    weight: float = 5.0

    family: ClassVar = "moe"
    paper: ClassVar = "THOR, arXiv 2110.04260"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        if self.experts < 2:
            raise ValueError("experts must be at least 2, or there is no lot to draw")
        if self.weight < 0:
            raise ValueError("weight must not be negative")

    def divisor(self) -> int:
        """Every expert is as wide as the dense layer."""
        return 1

    def parts(self, width: int) -> dict[str, Any]:
        """The feed-forward layer and the loss."""
        return {
            "feed_forward": {"kind": "stochastic", "experts": self.experts},
            "objective": {"kind": "consistency", "weight": self.weight},
        }
