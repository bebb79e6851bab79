"""DeepSeekMoE: more and finer experts, and shared ones that every token visits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.moe.parts import ExpertsTechnique, check_places


@dataclass(frozen=True)
class FineGrained(ExpertsTechnique):
    """Starts from `experts` of which a token visits `experts_per_token`; each is cut into `segments` (section 3.1), and
    `shared` of the segments serve every token, which then chooses that many fewer (section 3.2).

    An expert before cutting is 1/experts_per_token as wide as the dense layer, so a token meets as many feed-forward
    weights as before (the router aside), and there are experts/experts_per_token as many. The paper's 16B model has 64
    segments, 6 of them chosen, and 2 shared, each a quarter of an expert. Balance by its expert-level loss (section
    3.3); one device has no other to balance.
    """

    experts: int = 8
    experts_per_token: int = 2
    segments: int = 4
    shared: int = 1
    balance: float = 0.01

    family: ClassVar = "moe"
    paper: ClassVar = "DeepSeekMoE, arXiv 2401.06066"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        check_places(self.experts, self.experts_per_token, self.balance)
        if self.segments < 1:
            raise ValueError("segments must be at least 1, which leaves experts whole")
        if not 0 <= self.shared < self.divisor():
            raise ValueError(f"shared must lie between 0 and {self.divisor() - 1}, so that a token has one to choose")

    def divisor(self) -> int:
        """Segments that a token visits, shared ones included."""
        return self.experts_per_token * self.segments

    def parts(self, width: int) -> dict[str, Any]:
        """Segments to choose from, and the shared ones as one layer of their joint width."""
        segment = width // self.divisor()
        part = {
            "kind": "mixture",
            "experts": self.experts * self.segments - self.shared,
            "experts_per_token": self.divisor() - self.shared,
            "width": segment,
            "shared_width": self.shared * segment,
            "balance": self.balance,
        }
        return {"feed_forward": part}
