"""Experts of which some do nothing, so that easy tokens cost less."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.experts import Experts
from harness.decoder.parts import FeedForward, Run
from harness.decoder.routing import Router, visits


class ControlledRouter(Router):
    """Takes the best by score plus a bias, which a controller moves so that `expected` of the places compute.

    The weights are the scores without the bias. After every batch of training the bias of a computing expert moves by
    `rate` times how far its share of the visits falls short of its target's (LongCat-Flash, arXiv 2509.01322, section
    2.1.1); experts that compute nothing keep a bias of zero.
    """

    bias: Tensor

    def __init__(self, config: DecoderConfig, computing: int, idle: int, visited: int, expected: float, rate: float):
        super().__init__(config, computing + idle, visited)
        self.computing, self.target, self.rate = computing, expected / (visited * computing), rate
        self.register_buffer("bias", torch.zeros(computing + idle, dtype=torch.float32))

    def chosen(self, scores: Tensor) -> Tensor:
        return (scores + self.bias).topk(self.visited, -1).indices

    @torch.no_grad()
    def learn(self, scores: Tensor, index: Tensor, run: Run) -> None:
        shares = visits(index, self.choices)[: self.computing] / index.numel()
        self.bias[: self.computing] += self.rate * (self.target - shares)


class ZeroExperts(FeedForward):
    """`experts` of `width` and `zero_experts` that return their input; a token takes `experts_per_token` of both.

    `expected` is how many computing experts a token visits on average. The scores of so many choices are small; they
    are multiplied so that even ones sum to one over the places, where the paper's model has a factor of its own.
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer: int,
        experts: int,
        zero_experts: int,
        experts_per_token: int,
        expected: float,
        width: int,
        rate: float,
    ) -> None:
        super().__init__(config, layer)
        self.router = ControlledRouter(config, experts, zero_experts, experts_per_token, expected, rate)
        self.experts = Experts(config, experts, width, expected, absent=True)
        self.scale = (experts + zero_experts) / experts_per_token

    def forward(self, hidden: Tensor, run: Run, before: Tensor) -> Tensor:
        tokens = hidden.flatten(0, 1)
        index, weights = self.router(tokens, run)
        weights = self.scale * weights
        kept = (weights * (index >= self.experts.num_experts)).sum(-1, keepdim=True)
        return (self.experts(tokens, index, weights) + kept * tokens).view_as(hidden)


PART: Any = ZeroExperts
