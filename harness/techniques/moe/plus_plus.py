"""MoE++: experts that cost nearly nothing beside those that compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.moe.parts import ExpertsTechnique, check_places


@dataclass(frozen=True)
class PlusPlus(ExpertsTechnique):
    """`experts` that compute, one that returns nothing, one that returns its input, and `constants` that return a
    learned vector; routers see the routes of the layer before.

    Each computing expert is 1/experts_per_token as wide as the dense layer, so a token meets at most as many
    feed-forward weights as before: those that would be equal active parameters, were no cheap expert chosen. On
    average it meets zero_cost * experts / (zero_cost * experts + constants + 2) of them where the load-balancing loss
    reaches its optimum (the paper's table of complexities); closed forms of the cost say that. The sizes are those of
    the paper's smallest model, which has 8 experts and 4 cheap ones, top-2, and a cost of 0.75. Unlike there, experts
    have no capacity: dropping tokens by it would make what one token gets depend on later ones.
    """

    experts: int = 8
    constants: int = 2
    experts_per_token: int = 2
    zero_cost: float = 0.75
    balance: float = 0.01

    family: ClassVar = "moe"
    paper: ClassVar = "MoE++, arXiv 2410.07348"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        check_places(self.experts, self.experts_per_token, self.balance)
        if self.constants < 1:
            raise ValueError("constants must be at least 1")
        if not 0 < self.zero_cost <= 1:
            raise ValueError("zero_cost must lie above 0 and be at most 1, where all experts cost the same")

    def divisor(self) -> int:
        """Computing experts that a token visits at most."""
        return self.experts_per_token

    def parts(self, width: int) -> dict[str, Any]:
        """The feed-forward layer."""
        part = {
            "kind": "plus_plus",
            "experts": self.experts,
            "constants": self.constants,
            "experts_per_token": self.experts_per_token,
            "width": width // self.divisor(),
            "zero_cost": self.zero_cost,
            "balance": self.balance,
        }
        return {"feed_forward": part}
