"""Attention of every query to the blocks of keys that were chosen for it, and how they are chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from harness.decoder.attention import attend, causal

#: What the temporaries of one run of queries may take: a long prompt's queries come in several.
SCRATCH_BYTES = 2**27
#: Operations that an accelerator does while it moves one byte: an A100 does 156 in bfloat16, an H100 295.
OPERATIONS_PER_BYTE = 256


@dataclass(frozen=True)
class Chosen:
    """The blocks that each query sees, its own among them where causality cuts through it."""

    #: (batch, groups or 1, queries, blocks): which, no two of a query alike.
    blocks: Tensor
    #: False for those that only fill the row, where there are fewer blocks than are chosen.
    real: Tensor
    #: Tokens of a block.
    size: int


def best(scores: Tensor, first: int, size: int, count: int, *, initial: int = 0, local: int = 0) -> Chosen:
    """The `count` blocks of highest score (batch, groups or 1, queries, blocks), for queries from position `first` on.

    The `initial` first blocks and the `local` last ones, the query's own among them, are chosen whatever their score. A
    block that begins after the query never is. Which of equal scores wins is the machine's affair: scorers give none.
    """
    queries, blocks = scores.shape[2:]
    own = torch.arange(first, first + queries, device=scores.device)[:, None] // size
    block = torch.arange(blocks, device=scores.device)
    always = (block < initial) | (own - block < local)
    scores = scores.masked_fill(always, torch.inf).masked_fill(block > own, -torch.inf)
    found = scores.topk(min(count, blocks), -1)
    return Chosen(found.indices, found.values > -torch.inf, size)


def copying_pays(queries: int, chosen: int, keys: int, share: int) -> bool:
    """Whether to copy each query's `chosen` keys together, rather than score all `keys` and mask the others.

    A copy moves every number three times: read, written, read again. Scoring moves each key once for all queries, and
    does 4 operations per number of a key for each of the `share` heads of a group, where it has 4 bytes (a key's and a
    value's) to move. A kernel that reads the blocks where they lie needs neither; torch has none whose blocks differ
    from query to query.
    """
    return 3 * queries * chosen < keys * (1 + queries * share / OPERATIONS_PER_BYTE)


def attend_chosen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    chosen: Chosen,
    first: int,
    *,
    copies: bool,
    bias: Tensor | None = None,
    backend: str = "sdpa",
) -> Tensor:
    """(batch, heads, queries, width) over the chosen of (batch, groups, keys, width); the first query is at `first`.

    Keys after the last query may be there and are not looked at. With `copies` each query's keys are copied together
    and nothing else is read, which knows no `bias`; without, all are scored under a mask.
    """
    batch, groups = key.shape[:2]
    query = query.unflatten(1, (groups, -1)).flatten(0, 1)
    if copies:
        mixed = _copied(query, key, value, chosen, first, backend)
    else:
        keys, share = first + query.shape[2], query.shape[1]
        allowed = mask_of(chosen, query.shape[2], keys).expand(-1, groups, -1, -1).flatten(0, 1)[:, None]
        if bias is not None:
            bias = bias.expand(batch, -1, -1, -1).unflatten(1, (groups, -1)).flatten(0, 1)
        # Every group is a sequence of its own, because its mask is; its heads share one key without a copy of it.
        parts = (part[:, :, :keys].flatten(0, 1)[:, None].expand(-1, share, -1, -1) for part in (key, value))
        mixed = attend(query, *parts, bias=bias, allowed=allowed, backend=backend)
    return mixed.unflatten(0, (batch, groups)).flatten(1, 2)


def mask_of(chosen: Chosen, queries: int, keys: int) -> Tensor:
    """(batch, groups or 1, queries, keys): True at the tokens of chosen blocks that are not later than the query."""
    shape = (*chosen.blocks.shape[:3], -(-keys // chosen.size))
    blocks = torch.zeros(shape, dtype=torch.bool, device=chosen.blocks.device)
    blocks = blocks.scatter(-1, chosen.blocks, chosen.real)
    return blocks.repeat_interleave(chosen.size, -1)[..., :keys] & causal(queries, keys, blocks.device)


def _copied(query: Tensor, key: Tensor, value: Tensor, chosen: Chosen, first: int, backend: str) -> Tensor:
    """As `attend_chosen`, of queries (batch * groups, share, queries, width); heads and queries trade places."""
    batch, groups, keys = key.shape[:3]
    inside = torch.arange(chosen.size, device=key.device)
    tokens = (chosen.blocks[..., None] * chosen.size + inside).flatten(-2)
    places = torch.arange(first, first + query.shape[2], device=key.device)[:, None]
    seen = chosen.real.repeat_interleave(chosen.size, -1) & (tokens <= places)
    row = torch.arange(batch * groups, device=key.device).view(batch, groups, 1, 1) * keys
    # The end of the last block may not be there yet; what stands in for it is not seen.
    rows = (row + tokens.clamp(max=keys - 1)).flatten(0, 1)
    parts = (part.flatten(0, 2).index_select(0, rows.flatten()).unflatten(0, rows.shape) for part in (key, value))
    allowed = seen.expand(-1, groups, -1, -1).flatten(0, 1)[:, :, None]
    return attend(query.transpose(1, 2), *parts, allowed=allowed, backend=backend).transpose(1, 2)


def in_runs(function: Callable[[int, int], Tensor], queries: int, bytes_each: int) -> Tensor:
    """`function(begin, end)` for runs of queries, joined along dimension 2; a run's temporaries fit `SCRATCH_BYTES`.

    Where there are several runs, the backward pass computes each anew, so that training keeps the temporaries of one.
    """
    size = max(1, SCRATCH_BYTES // bytes_each)
    if queries <= size:
        return function(0, queries)
    found = []
    for begin in range(0, queries, size):
        end = min(begin + size, queries)
        if torch.is_grad_enabled():
            found.append(checkpoint(function, begin, end, use_reentrant=False))
        else:
            found.append(function(begin, end))
    return torch.cat(found, 2)


def softmax_over(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax in float32 over the last dimension where `seen` is True; all zero where nothing is seen."""
    hidden = ~seen
    lowest = torch.finfo(torch.float32).min
    return scores.float().masked_fill(hidden, lowest).softmax(-1).masked_fill(hidden, 0.0)


def around_blocks(scores: Tensor, blocks: int, length: int, stride: int, size: int) -> Tensor:
    """Scores of windows of `length` tokens, one every `stride`: those of the windows that touch each block of `size`.

    (..., windows) to (..., blocks, size / stride + length / stride - 1), zero where there is no such window. The
    windows that touch a block begin less than `length` before it and before its end.
    """
    before, each = length // stride - 1, size // stride
    after = blocks * each - scores.shape[-1]
    return functional.pad(scores, (before, after)).unfold(-1, each + before, each)
