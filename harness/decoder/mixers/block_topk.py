"""Attention to the blocks whose mean key suits the query best."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import LayerState, Position, Run
from harness.decoder.sparse_mixer import Scorer, Selecting, pooled
from harness.decoder.sums import sum_of_quotients


class BlockTopK(Selecting):
    """Keys lie in blocks of `size`; a query sees its own block and the `count` - 1 others of best mean key.

    Source: Sadhukhan et al. 2025 (Kinetics, arXiv 2506.05333), block top-k attention. A block's score is the query's
    product with the mean of its keys, averaged over the heads of a group, which is that of the group's mean query: so
    all heads of a group read the same blocks. There are no weights to train; the paper applies it to a trained model,
    here a model may also be trained with it. See `Selecting` for what is slow here.
    """

    def __init__(self, config: DecoderConfig, layer: int, position: Position, size: int, count: int) -> None:
        super().__init__(config, layer, position, size, count, whole=0)

    def scorer(self, hidden: Tensor, query: Tensor, key: Tensor, run: Run, state: LayerState | None) -> Scorer:
        means = pooled(key.detach(), self.size, self.size, state)
        asking = query.detach().unflatten(1, (self.groups, -1)).mean(2)

        def score(begin: int, end: int) -> Tensor:
            blocks = -(-(run.first + end) // self.size)
            known = means[:, :, :blocks]
            # A block that is not complete is its queries' own, which needs no score.
            return functional.pad(asking[:, :, begin:end] @ known.transpose(2, 3), (0, blocks - known.shape[2]))

        return score

    def scoring(self, count: int) -> float:
        return self.groups * self.width * sum_of_quotients(count - 1, self.size)

    def summary_numbers(self, tokens: int) -> int:
        return self.groups * self.width * (tokens // self.size)

    def score_numbers(self, keys: int) -> int:
        return 3 * self.groups * (keys // self.size + 1)


PART: Any = BlockTopK
