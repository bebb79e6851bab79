"""SmallThinker's router, which looks before attention so that experts can be fetched meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.moe.parts import ExpertsTechnique, check_places


@dataclass(frozen=True)
class PreAttentionRouter(ExpertsTechnique):
    """A mixture whose router reads attention's normalized input, and whose experts gate by ReLU, which makes them
    sparse inside.

    Each expert is 1/experts_per_token as wide as the dense layer, so a token meets as many feed-forward weights as
    before (the router aside). A choice's weight is its sigmoid divided by the sum over those chosen, as the released
    models have it, whose router reads the same before it is normalized. Here all experts lie in memory and none of a
    gate's zeros is skipped, so neither prefetching nor the sparsity saves time: what can be seen is what the early look
    does to quality. The paper's smaller model has 32 experts, 4 of them chosen. Source: Song et al. 2025, section 2.
    """

    experts: int = 8
    experts_per_token: int = 2
    balance: float = 0.01

    family: ClassVar = "moe"
    paper: ClassVar = "SmallThinker, arXiv 2507.20984"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        check_places(self.experts, self.experts_per_token, self.balance)

    def divisor(self) -> int:
        """Experts that a token visits."""
        return self.experts_per_token

    def parts(self, width: int) -> dict[str, Any]:
        """The feed-forward layer."""
        part = {
            "kind": "mixture",
            "experts": self.experts,
            "experts_per_token": self.experts_per_token,
            "width": width // self.divisor(),
            "scores": "sigmoid",
            "normalized": True,
            "balance": self.balance,
            "activation": "relu",
            "early": True,
        }
        return {"feed_forward": part}
