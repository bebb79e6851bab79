"""Differential attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.attention import attend
from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.full import Full
from harness.decoder.parts import Position, Run


class Differential(Full):
    """Of each two heads the second's softmax is taken from the first's, times a learned number; both see both values.

    Differential Transformer (arXiv 2410.05258), equations 1 to 3, heads paired as in transformers' DiffLlama: with the
    first half of the heads the second. Keys and values are as many as in the attention that it replaces. The products
    with the two values are two calls: fused kernels want values as wide as keys, and so the scores are made twice.
    """

    def __init__(self, config: DecoderConfig, layer: int, position: Position) -> None:
        super().__init__(config, layer, position)
        if self.heads % 2 or self.groups % 2:
            raise ValueError(
                f"differential attention pairs heads: {self.heads} heads and {self.groups} key-value heads must be even"
            )
        #: Equation 3: the deeper the layer, the more is taken.
        self.initial = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.first_query, self.first_key, self.second_query, self.second_key = (
            nn.Parameter(0.1 * torch.randn(self.width)) for _ in range(4)
        )

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        query, key, value = self.projected(hidden, run)
        state = run.state(slot)
        if state is not None:
            key, value = state.update(key, value)
        bias = self.bias(run, key.shape[2])
        seen = [
            attend(query, key, half.repeat(1, 2, 1, 1), bias=bias, backend=self.backend) for half in value.chunk(2, 1)
        ]
        first, second = torch.cat(seen, -1).chunk(2, 1)
        taken = first - self.share().to(first.dtype) * second
        normed = functional.rms_norm(taken, (2 * self.width,), eps=self.config.rms_norm_eps)
        # A pair's two values lie side by side; its heads' outputs follow each other, as the output layer expects.
        return self.joined((1 - self.initial) * normed)

    def share(self) -> Tensor:
        """How much of the second softmax is taken away."""
        first = (self.first_query * self.first_key).sum(dtype=torch.float32).exp()
        second = (self.second_query * self.second_key).sum(dtype=torch.float32).exp()
        return first - second + self.initial

    def mixing(self, first: float, last: float) -> float:
        """A score of each head, and of each head's weights the product with a pair of values."""
        return 3.0 * self.heads * self.width * (first + last) / 2


PART: Any = Differential
