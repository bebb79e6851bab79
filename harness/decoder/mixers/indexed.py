"""Attention to the tokens that a small indexer picks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import LayerState, Position, Run, linear, norm
from harness.decoder.selection import best, in_runs, mask_of, softmax_over
from harness.decoder.sparse_mixer import Scorer, Selecting
from harness.decoder.sums import sum_of_contexts

#: Added per position, so that the later of two tokens with no score at all is chosen whatever the machine sorts first;
#: every score that is not exactly zero swallows it.
LATER = 1e-30


class Indexed(Selecting):
    """A lightning indexer scores every earlier token, and the query attends to the `top_k` best (DSA).

    Source: DeepSeek-V3.2 (arXiv 2512.02556), section 2.1. The score (equation 1) is the sum over `index_heads` of a
    weight times the ReLU of an index query's product with the index key, of which a token has one. The paper picks
    latents of its multi-head latent attention for all heads; here keys and values of grouped-query attention are picked
    for all groups. Index heads are as wide as the model's, so that the same rotation tells them places.

    The loss of the next token gives the indexer no gradient. It learns from the attention itself, as in the paper's
    sparse stage: over the chosen tokens, the divergence of its softmax from the attention's mean over heads is added
    to the loss, and its input is detached, so that it shapes nothing else. There is no dense stage before: a model that
    is trained from the beginning has nothing yet to imitate, and while contexts are no longer than `top_k` the
    two stages are the same. Training scores the keys once more for that, since fused attention keeps its probabilities.
    The score of every earlier token is a product with every index key, so the cost still grows with the context, by a
    smaller factor. See `Selecting` for what is slow here; the indexer too would gain from a kernel that adds up
    heads where it multiplies, in 8 bits as in the paper.
    """

    local = 0

    def __init__(self, config: DecoderConfig, layer: int, position: Position, top_k: int, index_heads: int) -> None:
        super().__init__(config, layer, position, size=1, count=top_k, whole=0)
        self.index_heads = index_heads
        self.index_query = linear(config, config.hidden_size, index_heads * self.width)
        self.index_key = linear(config, config.hidden_size, self.width)
        self.index_key_norm = norm(config, self.width)
        self.index_weight = linear(config, config.hidden_size, index_heads)

    def scorer(self, hidden: Tensor, query: Tensor, key: Tensor, run: Run, state: LayerState | None) -> Scorer:
        hidden, rotate = hidden.detach(), self.position.rotate
        asking = rotate(self.index_query(hidden).unflatten(-1, (-1, self.width)).transpose(1, 2), run.positions)
        asked = rotate(self.index_key_norm(self.index_key(hidden))[:, None], run.positions)
        if state is not None:
            known = state.extras.get("index_key")
            asked = asked if known is None else torch.cat([known, asked], 2)
            state.extras["index_key"] = asked
        weight = self.index_weight(hidden).transpose(1, 2)[..., None] / math.sqrt(self.index_heads * self.width)

        def score(begin: int, end: int) -> Tensor:
            products = (asking[:, :, begin:end] @ asked[:, :, : run.first + end].transpose(2, 3)).relu()
            scores = (products.float() * weight[:, :, begin:end].float()).sum(1, keepdim=True)
            return scores + LATER * torch.arange(run.first + end, device=scores.device)

        if run.training and torch.is_grad_enabled():
            run.losses.append(self._divergence(query.detach(), key.detach(), run, score))
        return score

    def _divergence(self, query: Tensor, key: Tensor, run: Run, score: Scorer) -> Tensor:
        """The mean over queries of KL(attention || indexer), both over the chosen tokens."""
        shared = key.repeat_interleave(self.heads // self.groups, 1)

        def divergence(begin: int, end: int) -> Tensor:
            scores, keys = score(begin, end), run.first + end
            picked = best(scores.detach(), run.first + begin, 1, self.count)
            seen = mask_of(picked, end - begin, keys)
            with torch.no_grad():
                products = query[:, :, begin:end] @ shared[:, :, :keys].transpose(2, 3) / math.sqrt(self.width)
                bias = self._bias(run, begin, end)
                products = products if bias is None else products + bias
                target = softmax_over(products, seen).mean(1, keepdim=True)
            guess = scores.masked_fill(~seen, -torch.inf).log_softmax(-1).masked_fill(~seen, 0.0)
            return (torch.special.xlogy(target, target) - target * guess).sum(-1)

        numbers = 4 * self.heads * key.shape[2] + self.score_numbers(key.shape[2])
        return in_runs(divergence, query.shape[2], 4 * query.shape[0] * numbers).mean()

    def scoring(self, count: int) -> float:
        return self.index_heads * (self.width + 1) * sum_of_contexts(count)

    def summary_numbers(self, tokens: int) -> int:
        return self.width * tokens

    def score_numbers(self, keys: int) -> int:
        return 3 * self.index_heads * keys


PART: Any = Indexed
