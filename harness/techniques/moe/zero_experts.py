"""LongCat-Flash's zero-computation experts: a token spends as many computing ones as it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.moe.parts import ExpertsTechnique, check_places


@dataclass(frozen=True)
class ZeroExperts(ExpertsTechnique):
    """A token takes `experts_per_token` places among `experts` that compute and `zero_experts` that return their input;
    a controller of the router's biases keeps `expected` of them computing on average (section 2.1).

    Each computing expert is 1/expected as wide as the dense layer, so a token meets as many feed-forward weights as
    before on average (the router aside), some more and some less. The paper has 512 and 256 experts, 12 places and 8
    expected; the defaults are in the same proportions. `rate` is that of the controller: large enough to have its way
    in some twenty steps, where the paper's runs are long and let it decay. Closed forms of the cost count on
    `expected`; the meter of routing says what was. The paper's other losses concern several devices.
    """

    experts: int = 8
    zero_experts: int = 4
    experts_per_token: int = 3
    expected: int = 2
    rate: float = 0.1

    family: ClassVar = "moe"
    paper: ClassVar = "LongCat-Flash, arXiv 2509.01322"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        check_places(self.experts, self.experts_per_token)
        if not 0 < self.expected <= self.experts_per_token:
            raise ValueError("expected must lie between 1 and experts_per_token")
        if self.zero_experts < 1:
            raise ValueError("zero_experts must be at least 1")
        if self.rate <= 0:
            raise ValueError("rate must be above 0, or nothing keeps the number of computing experts")

    def divisor(self) -> int:
        """Computing experts that a token visits on average."""
        return self.expected

    def parts(self, width: int) -> dict[str, Any]:
        """The feed-forward layer."""
        part = {
            "kind": "zero_experts",
            "experts": self.experts,
            "zero_experts": self.zero_experts,
            "experts_per_token": self.experts_per_token,
            "expected": self.expected,
            "width": width // self.divisor(),
            "rate": self.rate,
        }
        return {"feed_forward": part}
