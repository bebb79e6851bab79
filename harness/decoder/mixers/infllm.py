"""Attention to the blocks that hold the stretches of keys that suit the query best."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import LayerState, Position, Run
from harness.decoder.selection import around_blocks, softmax_over
from harness.decoder.sparse_mixer import Scorer, Selecting, pooled
from harness.decoder.sums import sum_of_windows, windows_within

#: The best stretch of two neighbouring blocks may be the one that lies in both. This much more per block lets the later
#: one win whatever the machine sorts first; scores in float32 that differ do so by 6e-8 of themselves or more.
LATER = 1e-13


class InfLLM(Selecting):
    """InfLLM v2: a query sees `count` blocks of `size`, of which the first `initial` and the last `local` always.

    Source: MiniCPM4 (arXiv 2506.07900), section 2. The keys of overlapping stretches of `length` tokens, one every
    `stride`, are averaged ("semantic kernels"); a query's attention to those that it has wholly behind it, summed over
    the heads of a group, says how much each matters, and a block matters as much as the best stretch that touches it.
    There are no weights for any of this. A query whose context is no longer than `dense_below` sees everything; the
    paper decides that by the length of the whole sequence, which would let later tokens change what earlier ones see.
    See `Selecting` for what is slow here.
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer: int,
        position: Position,
        size: int,
        count: int,
        length: int,
        stride: int,
        initial: int,
        local: int,
        dense_below: int,
    ) -> None:
        super().__init__(config, layer, position, size, count, whole=dense_below)
        self.length, self.stride, self.initial, self.local = length, stride, initial, local

    def scorer(self, hidden: Tensor, query: Tensor, key: Tensor, run: Run, state: LayerState | None) -> Scorer:
        means = pooled(key.detach(), self.length, self.stride, state)
        grouped = query.detach().unflatten(1, (self.groups, -1))

        def score(begin: int, end: int) -> Tensor:
            keys = run.first + end
            known = means[:, :, None, : windows_within(keys, self.length, self.stride)]
            scores = grouped[:, :, :, begin:end] @ known.transpose(3, 4) / math.sqrt(self.width)
            ends = torch.arange(known.shape[3], device=known.device) * self.stride + self.length
            contexts = torch.arange(run.first + begin, keys, device=known.device)[:, None] + 1
            mattering = softmax_over(scores, ends <= contexts).sum(2)
            around = around_blocks(mattering, -(-keys // self.size), self.length, self.stride, self.size)
            block = torch.arange(around.shape[-2], dtype=torch.float64, device=around.device)
            return around.amax(-1).double() * (1 + LATER * block)

        return score

    def scoring(self, count: int) -> float:
        return self.heads * self.width * sum_of_windows(count, self.length, self.stride)

    def summary_numbers(self, tokens: int) -> int:
        return self.groups * self.width * windows_within(tokens, self.length, self.stride)

    def score_numbers(self, keys: int) -> int:
        return 4 * self.heads * (keys // self.stride)


PART: Any = InfLLM
