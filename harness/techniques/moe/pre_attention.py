"""SmallThinker's router, which looks before attention so that experts can be fetched meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.moe.parts import RoutedExperts


@dataclass(frozen=True)
class PreAttentionRouter(RoutedExperts):
    """A mixture whose router reads attention's normalized input, and whose experts gate by ReLU, which makes them
    sparse inside.

    Each expert is 1/experts_per_token as wide as the dense layer, so a token meets as many feed-forward weights as
    before (the router aside). A choice's weight is its sigmoid divided by the sum over those chosen, as the released
    models have it, whose router reads the same before it is normalized. Here all experts lie in memory and none of a
    gate's zeros is skipped, so neither prefetching nor the sparsity saves time: what can be seen is what the early look
    does to quality. The paper's smaller model has 32 experts, 4 of them chosen. Source: Song et al. 2025, section 2.
    """

    paper: ClassVar = "SmallThinker, arXiv 2507.20984"

    def parts(self, width: int) -> dict[str, Any]:
        """The feed-forward layer."""
        router = {"scores": "sigmoid", "normalized": True, "early": True}
        return {"feed_forward": self.mixture(width, activation="relu", **router)}
