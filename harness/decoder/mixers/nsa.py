"""Native sparse attention: compressed, selected and near keys, weighed by gates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.full import Full
from harness.decoder.parts import LayerState, Position, Run, linear
from harness.decoder.selection import around_blocks, attend_chosen, best, copying_pays, in_runs, softmax_over
from harness.decoder.sparse_mixer import kept_of_chosen
from harness.decoder.sums import mean_over, sum_of_chosen, sum_of_minima, sum_of_windows, windows_within
from harness.decoder.window import attend_window

#: Blocks that are selected whatever their score (section 3.3.2): the first, and the query's own with the one before.
INITIAL, LOCAL = 1, 2


class Compressor(nn.Module):
    """The keys (or values) of a block to one, by a learned network that is told where in the block each stands.

    Source: NSA, equation 7. The paper does not give the network's sizes: two layers, the hidden one as wide as a head.
    """

    def __init__(self, config: DecoderConfig, groups: int, length: int, stride: int) -> None:
        super().__init__()
        width = config.head_dim
        self.length, self.stride = length, stride
        self.places = nn.Embedding(length, width)
        self.down, self.out = linear(config, length * width, width), linear(config, width, width)
        #: Every `stride` tokens it runs once for each group.
        self.runs_per_token = groups / stride

    def forward(self, heads: Tensor) -> Tensor:
        """(batch, groups, tokens, width) to (batch, groups, complete blocks, width)."""
        blocks = heads.unfold(2, self.length, self.stride).transpose(3, 4)
        return self.out(functional.silu(self.down((blocks + self.places.weight).flatten(3))))


class NSA(Full):
    """The gated sum of attention to compressed blocks, to selected blocks and to a sliding window.

    Source: Yuan et al. 2025 (Native Sparse Attention, arXiv 2502.11089), section 3; equation numbers are the paper's.
    Each branch has keys and values of its own. Blocks of `length` tokens, one every `stride`, are compressed to one key
    and value each (7), and a query attends to those that it has wholly behind it. The probabilities of that attention
    (8) are added up over the compressed blocks that touch each block of `size` tokens (9) and over the heads of a group
    (10), and the `count` best blocks are selected (11, 12), the first and the last two always. The window sees `window`
    positions. A gate for each head and branch, a sigmoid of a linear map of the hidden state, weighs the three (5).

    A selection has no gradient; what decides it is trained as the attention to compressed blocks. Keys are compressed
    before they are rotated, and the compressed one is rotated to the last place of its block: a network fed rotated
    keys would have to undo a different turn for each block. Positions that add a bias to scores have no meaning for
    compressed keys and are refused.

    The cache keeps keys and values of the selected branch whole, the compressed ones, the tokens that wait for their
    block to be complete, and the last `window` - 1 of the window's branch. Queries come in runs whose masks, scores and
    copies take at most `SCRATCH_BYTES` (128 MiB), a single query's if that is more; training with several runs computes
    each twice. It is slow here in that a prompt's selected keys are masked or copied together, whichever moves less
    (`copying_pays`), where the paper's kernel reads each selected block once for all heads of a group.
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer: int,
        position: Position,
        length: int,
        stride: int,
        size: int,
        count: int,
        window: int,
    ) -> None:
        super().__init__(config, layer, position)
        if type(position).bias is not Position.bias:
            raise ValueError("nsa compresses keys, to which positions can add no bias; choose another position")
        self.length, self.stride, self.size, self.count, self.window = length, stride, size, count, window
        # The parts named as in `Full` serve the selected branch.
        sizes = config.hidden_size, self.groups * self.width, config.attention_bias
        self.compressed_key, self.compressed_value = linear(config, *sizes), linear(config, *sizes)
        self.window_key, self.window_value = linear(config, *sizes), linear(config, *sizes)
        self.compress_keys = Compressor(config, self.groups, length, stride)
        self.compress_values = Compressor(config, self.groups, length, stride)
        self.gates = linear(config, config.hidden_size, 3 * self.heads)

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        query, key, value = self.projected(hidden, run)
        state = run.state(slot)
        if state is not None:
            key, value = state.update(key, value)
        near = self._near(hidden, query, run, state)
        compressed = self._compressed(hidden, run, state)
        far = self._far(query, key.contiguous(), value.contiguous(), *compressed, run)
        gates = self.gates(hidden).sigmoid().unflatten(-1, (3, self.heads)).permute(0, 2, 3, 1)[..., None]
        branches = torch.stack([*far.chunk(2, 1), near], 1)
        return self.joined((gates * branches).sum(1))

    def _near(self, hidden: Tensor, query: Tensor, run: Run, state: LayerState | None) -> Tensor:
        """The window's branch."""
        key, value = self._heads(self.window_key, hidden), self._heads(self.window_value, hidden)
        key = self.position.rotate(key, run.positions)
        if state is not None:
            key, value = _joined(state, "window", key, value)
            _keep(state, "window", key, value, max(0, key.shape[2] - self.window + 1))
        return attend_window(query, key, value, self.window, backend=self.backend)

    def _compressed(self, hidden: Tensor, run: Run, state: LayerState | None) -> tuple[Tensor, Tensor]:
        """Keys and values of all blocks that are complete, (batch, groups, blocks, width)."""
        key, value = self._heads(self.compressed_key, hidden), self._heads(self.compressed_value, hidden)
        done = 0
        if state is not None:
            key, value = _joined(state, "waiting", key, value)
            done = (run.first + hidden.shape[1] - key.shape[2]) // self.stride
        fresh = windows_within(key.shape[2], self.length, self.stride)
        if state is not None:
            _keep(state, "waiting", key, value, fresh * self.stride)
        if fresh:
            last = torch.arange(done, done + fresh, device=hidden.device)[None] * self.stride + self.length - 1
            key, value = self.position.rotate(self.compress_keys(key), last), self.compress_values(value)
        else:
            key, value = key[:, :, :0], value[:, :, :0]
        if state is not None:
            key, value = _joined(state, "compressed", key, value)
            _keep(state, "compressed", key, value, 0)
        return key, value

    def _far(
        self, query: Tensor, key: Tensor, value: Tensor, compressed_key: Tensor, compressed_value: Tensor, run: Run
    ) -> Tensor:
        """The branches of compressed and of selected blocks, (batch, 2 * heads, tokens, width)."""
        tokens, chosen, share = query.shape[2], self.count * self.size, self.heads // self.groups
        copies = copying_pays(tokens, chosen, key.shape[2], share)

        def branches(begin: int, end: int) -> Tensor:
            first, keys = run.first + begin, run.first + end
            there = windows_within(keys, self.length, self.stride)
            grouped = query[:, :, begin:end].unflatten(1, (self.groups, share))
            scores = grouped @ compressed_key[:, :, None, :there].transpose(3, 4) / math.sqrt(self.width)
            ends = torch.arange(there, device=query.device) * self.stride + self.length
            contexts = torch.arange(first, keys, device=query.device)[:, None] + 1
            seen = softmax_over(scores, ends <= contexts)
            compressed = (seen.to(query.dtype) @ compressed_value[:, :, None, :there]).flatten(1, 2)
            picked = best(self._importance(seen, keys), first, self.size, self.count, initial=INITIAL, local=LOCAL)
            options: dict[str, Any] = {"copies": copies, "backend": self.backend}
            selected = attend_chosen(query[:, :, begin:end], key, value, picked, first, **options)
            return torch.cat([compressed, selected], 1)

        numbers = self.groups * (2 * chosen * self.width if copies else 2 * key.shape[2])
        numbers += 5 * self.heads * compressed_key.shape[2]
        if self.backend == "eager":
            numbers += 3 * self.heads * (chosen if copies else key.shape[2])
        return in_runs(branches, tokens, 4 * query.shape[0] * numbers)

    def _importance(self, seen: Tensor, keys: int) -> Tensor:
        """Scores of blocks (9, 10): of each compressed block's probability, as often as the strides that both cover."""
        around = around_blocks(seen.detach().sum(2), -(-keys // self.size), self.length, self.stride, self.size)
        offset = torch.arange(around.shape[-1], device=seen.device)
        covered = torch.minimum(offset + 1, around.shape[-1] - offset)
        most = min(self.length, self.size) // self.stride
        return (around * covered.clamp(max=most)).sum(-1)

    def _heads(self, part: Any, hidden: Tensor) -> Tensor:
        return part(hidden).unflatten(-1, (-1, self.width)).transpose(1, 2)

    def mixing(self, first: float, last: float) -> float:
        def total(count: int) -> float:
            compressed = sum_of_windows(count, self.length, self.stride)
            selected = sum_of_chosen(count, self.count, self.size)
            return 2.0 * self.heads * self.width * (compressed + selected + sum_of_minima(count, self.window))

        return mean_over(total, first, last)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        compressed = windows_within(tokens, self.length, self.stride)
        waiting = tokens - compressed * self.stride
        kept = tokens + compressed + waiting + min(tokens, self.window - 1)
        return super().held_bytes(kept, element_bytes)

    def read_bytes(self, tokens: int, element_bytes: int) -> float:
        compressed = windows_within(tokens, self.length, self.stride)
        selected = kept_of_chosen(tokens, self.count, self.size)
        return super().held_bytes(compressed + selected + min(tokens, self.window - 1), element_bytes)


def _joined(state: LayerState, name: str, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """What is kept under this name, and these after it."""
    if name not in state.extras:
        return key, value
    known = state.extras[name]
    return torch.cat([known[0], key], 2), torch.cat([known[1], value], 2)


def _keep(state: LayerState, name: str, key: Tensor, value: Tensor, start: int) -> None:
    """Keep these from a place on, as copies: a slice would hold on to all it was cut from."""
    state.extras[name] = key[:, :, start:].clone(), value[:, :, start:].clone()


PART: Any = NSA
