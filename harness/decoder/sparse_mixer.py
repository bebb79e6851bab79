"""What mixers share that attend fully while a context is short and to chosen blocks of it once it is long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.decoder.attention import attend
from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.full import Full
from harness.decoder.parts import LayerState, Position, Run
from harness.decoder.selection import attend_chosen, best, copying_pays, in_runs
from harness.decoder.sums import mean_over, sum_of_chosen, sum_of_contexts, windows_within

#: Scores (batch, groups or 1, queries, blocks) of the queries between two places of this pass, for the blocks that
#: begin no later than the last of them.
Scorer = Callable[[int, int], Tensor]


class Selecting(Full):
    """Grouped-query attention to `count` blocks of `size` positions, the same for all heads of a group.

    A query whose context is no longer than `whole` sees all of it. That is a matter of the query, not of the sequence:
    a token's output never changes because more tokens follow. Subclasses score blocks (`scorer`), and say what they
    keep for that (`summary_numbers`) and what it costs (`scoring`).

    Queries come in runs whose masks, scores and copies take at most `SCRATCH_BYTES` (128 MiB), a single query's if that
    is more; training with several runs computes each twice. A prompt's queries are masked rather than gathered unless
    the context is many times what is chosen (`copying_pays`): so a prompt costs about what full attention costs, where
    the kernels of the papers, which read a block where it lies, would cost what `mixing` says.
    """

    initial, local = 0, 1

    def __init__(
        self, config: DecoderConfig, layer: int, position: Position, size: int, count: int, whole: int
    ) -> None:
        super().__init__(config, layer, position)
        self.size, self.count, self.whole = size, count, max(whole, count * size)

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        query, key, value = self.projected(hidden, run)
        state = run.state(slot)
        if state is not None:
            key, value = state.update(key, value)
        tokens = query.shape[2]
        score = self.scorer(hidden, query, key, run, state)
        seeing_all = min(max(self.whole - run.first, 0), tokens)
        found = []
        if seeing_all:
            last = run.first + seeing_all
            bias = self._bias(run, 0, seeing_all)
            parts = (query[:, :, :seeing_all], key[:, :, :last], value[:, :, :last])
            found.append(attend(*parts, bias=bias, backend=self.backend))
        if seeing_all < tokens:
            found.append(self._sparse(query, key.contiguous(), value.contiguous(), run, score, seeing_all))
        return self.joined(torch.cat(found, 2))

    def scorer(self, hidden: Tensor, query: Tensor, key: Tensor, run: Run, state: LayerState | None) -> Scorer:
        """Bring up to date what is kept for scoring, and return how blocks are scored."""
        raise NotImplementedError

    def scoring(self, count: int) -> float:
        """The sum, over contexts 1 to `count`, of multiply-adds that scoring the blocks takes."""
        raise NotImplementedError

    def summary_numbers(self, tokens: int) -> int:
        """Numbers kept beside keys and values, and read by a query that chooses."""
        raise NotImplementedError

    def score_numbers(self, keys: int) -> int:
        """Numbers that the scores of one query take on their way."""
        raise NotImplementedError

    def _sparse(self, query: Tensor, key: Tensor, value: Tensor, run: Run, score: Scorer, start: int) -> Tensor:
        """The attention of the queries from place `start` on, which see their chosen blocks."""
        tokens, keys = query.shape[2], key.shape[2]
        biased = self._bias(run, start, start + 1) is not None
        chosen, share = self.count * self.size, self.heads // self.groups
        copies = not biased and copying_pays(tokens - start, chosen, keys, share)

        def attended(begin: int, end: int) -> Tensor:
            begin, end = start + begin, start + end
            first = run.first + begin
            with torch.no_grad():
                picked = best(score(begin, end), first, self.size, self.count, initial=self.initial, local=self.local)
            bias = self._bias(run, begin, end)
            options: dict[str, Any] = {"copies": copies, "bias": bias, "backend": self.backend}
            return attend_chosen(query[:, :, begin:end], key, value, picked, first, **options)

        numbers = self.groups * (2 * chosen * self.width if copies else 2 * keys) + self.score_numbers(keys)
        numbers += self.heads * ((chosen if copies else keys) if self.backend == "eager" or biased else 0) * 3
        return in_runs(attended, tokens - start, 4 * query.shape[0] * numbers)

    def _bias(self, run: Run, begin: int, end: int) -> Tensor | None:
        """What the position adds for these queries, over all keys up to the last of them."""
        keys = torch.arange(run.first + end, device=run.positions.device)[None]
        return self.position.bias(run.positions[:, begin:end], keys)

    def mixing(self, first: float, last: float) -> float:
        def total(count: int) -> float:
            beyond = max(count, self.whole)
            chosen = [sum_of_chosen(contexts, self.count, self.size) for contexts in (self.whole, beyond)]
            seen = sum_of_contexts(min(count, self.whole)) + chosen[1] - chosen[0]
            scored = self.scoring(beyond) - self.scoring(self.whole)
            return 2.0 * self.heads * self.width * seen + scored

        return mean_over(total, first, last)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return super().held_bytes(tokens, element_bytes) + self.summary_numbers(tokens) * element_bytes

    def read_bytes(self, tokens: int, element_bytes: int) -> float:
        if tokens < self.whole:
            return super().held_bytes(tokens, element_bytes)
        read = kept_of_chosen(tokens, self.count, self.size)
        return super().held_bytes(read, element_bytes) + self.summary_numbers(tokens) * element_bytes


def kept_of_chosen(tokens: int, count: int, size: int) -> int:
    """Positions of `tokens` kept ones that the next query sees in `count` blocks of `size`, its own among them."""
    return min(tokens, (count - 1) * size + tokens % size)


def pooled(key: Tensor, length: int, stride: int, state: LayerState | None) -> Tensor:
    """Means of windows of `length` keys, one every `stride`, of those that are complete; kept for later calls."""
    known = None if state is None else state.extras.get("pooled")
    done = 0 if known is None else known.shape[2]
    there = windows_within(key.shape[2], length, stride)
    if there == done:
        return key[:, :, :0] if known is None else known
    means = key[:, :, done * stride :].unfold(2, length, stride).mean(-1)
    means = means if known is None else torch.cat([known, means], 2)
    if state is not None:
        state.extras["pooled"] = means
    return means
