"""A mixture of experts: each token visits the few that a router takes, and the shared ones if there are any."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.experts import Experts
from harness.decoder.feed_forwards.dense import Dense
from harness.decoder.parts import FeedForward, Run
from harness.decoder.routing import Router


class Mixture(FeedForward):
    """`experts` of `width`, of which a token visits `experts_per_token` by a router's weights.

    `shared_width` is that of a layer which every token passes beside them (DeepSeekMoE, arXiv 2401.06066, equation 9);
    several shared experts are one such layer of their widths' sum. With `early` the router reads what the mixer
    read, so that a token's experts are known before its mixer has run (SmallThinker, arXiv 2507.20984, section 2).
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer: int,
        experts: int,
        experts_per_token: int,
        width: int,
        shared_width: int = 0,
        scores: str = "softmax",
        normalized: bool = False,
        balance: float = 0.0,
        activation: str = "silu",
        early: bool = False,
    ) -> None:
        super().__init__(config, layer)
        self.router = Router(config, experts, experts_per_token, scores=scores, normalized=normalized, balance=balance)
        self.experts = Experts(config, experts, width, experts_per_token, activation)
        self.shared = Dense(config, layer, shared_width) if shared_width else None
        self.early = early

    def forward(self, hidden: Tensor, run: Run, before: Tensor) -> Tensor:
        index, weights = self.router((before if self.early else hidden).flatten(0, 1), run)
        mixed = self.experts(hidden.flatten(0, 1), index, weights).view_as(hidden)
        return mixed if self.shared is None else mixed + self.shared(hidden, run, before)


PART: Any = Mixture
