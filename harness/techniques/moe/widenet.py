"""WideNet: one layer for all depths, wide by a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.moe.parts import RoutedExperts


@dataclass(frozen=True)
class WideNet(RoutedExperts):
    """All layers share attention, router and experts, and have norms of their own.

    Each expert is 1/experts_per_token as wide as the dense layer, so at every depth a token meets as many feed-forward
    weights as before (the router aside) and computes as much; but all layers together hold the weights of
    experts/experts_per_token dense layers and of one attention. The paper's experts are as wide as its dense layer and
    dropped beyond a capacity; here they have none, which keeps what a token gets independent of later ones. The cache
    is as large as before. Source: Xue et al. 2021, section 3.
    """

    paper: ClassVar = "WideNet, arXiv 2107.11817"

    def parts(self, width: int) -> dict[str, Any]:
        """The layer's feed-forward, and the stack that repeats it."""
        return {"feed_forward": self.mixture(width), "stack": {"kind": "shared"}}
