"""Attention with linear biases."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Position


class Alibi(Position):
    """Scores fall linearly with the distance, by a slope that each head has of its own and nobody trains.

    Source: Press, Smith and Lewis 2022 (arXiv 2108.12409), section 3. The biases are made anew in every layer, one for
    each head, query and key but not for each sequence: a fused kernel without a place for biases cannot take them, and
    one that computes them itself (`score_mod` of torch's flex attention) would never store them.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.heads = config.num_attention_heads

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distances = query_positions[:, None, :, None] - key_positions[:, None, None, :]
        return -slopes_of(self.heads, distances.device)[:, None, None] * distances


def slopes_of(heads: int, device: torch.device) -> Tensor:
    """Each head's slope: a geometric sequence from 2^(-8/n) to 2^-8 for a power of two n.

    For another number, those of the power of two below and, for the rest, every second one of the power of two above,
    as the authors' code has it.
    """
    below = 2 ** math.floor(math.log2(heads))
    # Made on the device: to copy them there would hold up every layer.
    steps = torch.cat(
        [2 * torch.arange(1, below + 1, device=device), 2 * torch.arange(heads - below, device=device) + 1]
    )
    return torch.exp2(-4.0 / below * steps)


PART: Any = Alibi
