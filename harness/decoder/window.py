"""Attention to the last positions alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from harness.decoder.attention import attend


def attend_window(query: Tensor, key: Tensor, value: Tensor, window: int, backend: str = "sdpa") -> Tensor:
    """As `attend`, of queries that see themselves and the `window` - 1 positions before them.

    A long run of queries is cut into blocks as long as the window; each sees its own keys and those of the block
    before, under one mask for all. So time and memory grow with the window, and no query is a step of a loop.
    """
    groups, queries, known = key.shape[1], query.shape[2], key.shape[2] - query.shape[2]
    start = min(queries, window)
    allowed = _band(start, known + start, window, query.device)
    first = attend(
        query[:, :, :start], key[:, :, : known + start], value[:, :, : known + start], allowed=allowed, backend=backend
    )
    if queries <= window:
        return first
    behind = -queries % window
    query = functional.pad(query[:, :, window:], (0, 0, 0, behind))
    # Each block of a group is a sequence of its own; the group's heads share its keys without a copy of them.
    query = query.unflatten(2, (-1, window)).unflatten(1, (groups, -1)).transpose(2, 3)
    shape, share = query.shape[:3], query.shape[3]
    pairs = (
        functional.pad(part[:, :, known:], (0, 0, 0, behind)).unfold(2, 2 * window, window).transpose(3, 4)
        for part in (key, value)
    )
    parts = (pair.flatten(0, 2)[:, None].expand(-1, share, -1, -1) for pair in pairs)
    allowed = _band(window, 2 * window, window, query.device)
    rest = attend(query.flatten(0, 2), *parts, allowed=allowed, backend=backend).unflatten(0, shape)
    rest = rest.transpose(2, 3).flatten(1, 2).flatten(2, 3)
    return torch.cat([first, rest[:, :, : queries - window]], 2)


def _band(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """(queries, keys): True from the query's own place back through the window, the last query being the last key."""
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return seen.tril(keys - queries).triu(keys - queries - window + 1)
