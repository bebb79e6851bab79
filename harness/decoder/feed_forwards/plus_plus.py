"""MoE++: experts beside others that cost nearly nothing, and routers that know the way a token came."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.experts import Experts
from harness.decoder.parts import FeedForward, Run
from harness.decoder.routing import Router, balance_loss

#: Where a layer leaves its logits for the next one's router, among what layers tell each other.
LOGITS = "pathway logits"


class PathwayRouter(Router):
    """Adds a linear map of the logits of the mixture before, so that routes are coherent over the depth.

    The load-balancing loss weighs choices that cost nearly nothing by `zero_cost`, the paper's tau.
    """

    def __init__(
        self,
        config: DecoderConfig,
        first: bool,
        experts: int,
        cheap: int,
        visited: int,
        zero_cost: float,
        balance: float,
    ) -> None:
        super().__init__(config, experts + cheap, visited, balance=balance)
        self.experts, self.zero_cost = experts, zero_cost
        empty = torch.empty(self.choices, self.choices)
        self.pathway = None if first else nn.Parameter(empty.normal_(std=config.initializer_range))

    def logits(self, hidden: Tensor, run: Run) -> Tensor:
        logits = super().logits(hidden, run)
        if self.pathway is not None:
            logits = logits + functional.linear(run.told[LOGITS], self.pathway)
        run.told[LOGITS] = logits
        return logits

    def learn(self, scores: Tensor, index: Tensor, run: Run) -> None:
        costs = torch.ones(self.choices, device=scores.device)
        costs[self.experts :] = self.zero_cost
        run.losses.append(self.balance * balance_loss(scores, index, costs))


class PlusPlus(FeedForward):
    """`experts` of `width`, one that returns nothing, one that returns its input, and `constants` that learn a vector.

    A constant expert mixes its input and its vector by two weights that a softmax makes of the input (MoE++, arXiv
    2410.07348, section 3). Where the loss has its way, a token's `experts_per_token` places go to computing
    experts in the share 1 : 1 / `zero_cost` of each to each cheap one; the closed form of the cost counts on that.
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer: int,
        experts: int,
        constants: int,
        experts_per_token: int,
        width: int,
        zero_cost: float,
        balance: float,
    ) -> None:
        super().__init__(config, layer)
        cheap = 2 + constants
        visited = experts_per_token * zero_cost * experts / (zero_cost * experts + cheap)
        self.router = PathwayRouter(config, layer == 0, experts, cheap, experts_per_token, zero_cost, balance)
        self.experts = Experts(config, experts, width, visited, absent=True)
        spread = config.initializer_range
        self.vectors = nn.Parameter(torch.empty(constants, config.hidden_size).normal_(std=spread))
        self.mixing = nn.Parameter(torch.empty(2 * constants, config.hidden_size).normal_(std=spread))

    def forward(self, hidden: Tensor, run: Run, before: Tensor) -> Tensor:
        tokens = hidden.flatten(0, 1)
        index, weights = self.router(tokens, run)
        gates = weights.new_zeros(tokens.shape[0], self.router.choices).scatter(-1, index, weights)
        # The choices in their order: computing experts, the one of nothing, the copy, the constants.
        gates = gates[:, self.experts.num_experts + 1 :]
        shares = functional.linear(tokens, self.mixing).unflatten(-1, (-1, 2)).softmax(-1)
        kept, learned = gates[:, 1:, None].mul(shares).unbind(-1)
        copied = gates[:, :1] + kept.sum(-1, keepdim=True)
        mixed = self.experts(tokens, index, weights) + copied * tokens + learned @ self.vectors
        return mixed.view_as(hidden)


PART: Any = PlusPlus
