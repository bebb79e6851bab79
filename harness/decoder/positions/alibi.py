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
        slopes = torch.tensor(slopes_of(self.heads), device=distances.device)
        return -slopes[:, None, None] * distances


def slopes_of(heads: int) -> list[float]:
    """Each head's slope: a geometric sequence from 2^(-8/n) to 2^-8 for a power of two n.

    For another number, those of the power of two below and, for the rest, every second one of the power of two above,
    as the authors' code has it.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (head + 1) / below) for head in range(below)]
    return slopes + [2.0 ** (-8 * (2 * extra + 1) / (2 * below)) for extra in range(heads - below)]


PART: Any = Alibi
