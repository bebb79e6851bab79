"""Experts that are drawn by lot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.experts import Experts
from harness.decoder.parts import FeedForward, Run

#: Odd numbers that spread places and layers over the experts; the hash is murmur's last mixing step.
_PLACE, _LAYER, _FIRST, _SECOND, _BITS = 0x9E3779B1, 0x85EBCA77, 0x85EBCA6B, 0xC2B2AE35, 0xFFFFFFFF


class Stochastic(FeedForward):
    """`experts` as wide as the dense layer, of which each token visits one that nothing has learned to choose.

    THOR (Zuo et al. 2021, arXiv 2110.04260, section 3). In training every sequence draws an expert in every layer (the
    released code draws for a whole batch), and the second half of the batch draws others than the first: there the
    objective `consistency` has put the same sequences again. Otherwise each token draws its own, the paper's dispatch
    by token; the lot is a hash of the token's place and the layer, so that a sequence gets the same experts whether or
    not it is cached.
    """

    def __init__(self, config: DecoderConfig, layer: int, experts: int) -> None:
        super().__init__(config, layer)
        self.layer, self.experts = layer, Experts(config, experts, config.intermediate_size, 1.0)

    def forward(self, hidden: Tensor, run: Run, before: Tensor) -> Tensor:
        batch, tokens, _ = hidden.shape
        drawn = self._drawn(batch, hidden.device) if run.training else self._lots(run.positions)
        index = drawn.expand(batch, tokens).reshape(-1, 1)
        weights = torch.ones_like(index, dtype=hidden.dtype)
        return self.experts(hidden.flatten(0, 1), index, weights).view_as(hidden)

    def _drawn(self, batch: int, device: torch.device) -> Tensor:
        """(batch, 1): for each sequence of the second half another expert than for its pair in the first."""
        experts, half = self.experts.num_experts, batch // 2
        first = torch.randint(experts, (batch - half, 1), device=device)
        away = torch.randint(1, experts, (half, 1), device=device)
        return torch.cat([first, (first[:half] + away) % experts])

    def _lots(self, positions: Tensor) -> Tensor:
        """(1 or batch, tokens): murmur3's finalizer (Appleby), in numbers of 32 bits."""
        lots = (positions * _PLACE + (self.layer + 1) * _LAYER) & _BITS
        lots = ((lots ^ (lots >> 16)) * _FIRST) & _BITS
        lots = ((lots ^ (lots >> 13)) * _SECOND) & _BITS
        return (lots ^ (lots >> 16)) % self.experts.num_experts


PART: Any = Stochastic
