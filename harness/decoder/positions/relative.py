"""Trained biases by distance."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Position


class Relative(Position):
    """T5's biases: distances fall into buckets, each head has a number for each, and all layers share them.

    Source: Raffel et al. 2020 (arXiv 1910.10683), section 2.1: 32 buckets, logarithmically wider up to a distance of
    128, and one bucket for all beyond. T5 leaves the scores unscaled; here they are scaled as in the rest of the
    decoder, so that the position is the one part that differs. The biases of a pass are made anew in every layer, one
    for each head, query and key but not for each sequence.
    """

    def __init__(self, config: DecoderConfig, buckets: int = 32, farthest: int = 128) -> None:
        super().__init__(config)
        self.buckets, self.farthest = buckets, farthest
        self.biases = nn.Embedding(buckets, config.num_attention_heads)

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        # The later half is masked, whatever its bucket.
        distances = (query_positions[:, :, None] - key_positions[:, None, :]).clamp(0, self.farthest)
        by_distance = bucket_of(torch.arange(self.farthest + 1, device=distances.device), self.buckets, self.farthest)
        return self.biases(by_distance[distances]).permute(0, 3, 1, 2).contiguous()


def bucket_of(distances: Tensor, buckets: int, farthest: int) -> Tensor:
    """The bucket of each distance back: one each for the nearest half of them, then logarithmically wider ones."""
    exact = buckets // 2
    grown = torch.log(distances.clamp(min=1) / exact) / math.log(farthest / exact) * (buckets - exact)
    return torch.where(distances < exact, distances, (exact + grown.long()).clamp(max=buckets - 1))


PART: Any = Relative
