"""Attention to the last positions alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from harness.decoder.attention import attend

#: What is added to the scores of the last so many queries over so many keys, whatever the place of the first key.
Bias = Callable[[int, int], Tensor | None]


def attend_window(
    query: Tensor, key: Tensor, value: Tensor, window: int, *, bias: Bias | None = None, backend: str = "sdpa"
) -> Tensor:
    """As `attend`, of queries that see themselves and the `window` - 1 positions before them.

    A long run of queries is cut into blocks as long as the window; each sees itself and the block before under one mask
    for all, so that time and memory grow with the window, and no query is a step of a loop.
    """
    tokens, known = query.shape[2], key.shape[2]
    if tokens <= window:
        return _at_once(query, key, value, window, bias, backend)
    # Queries that nobody asked stand before the first one, so that queries and keys start at one place.
    query = functional.pad(query, (0, 0, known - tokens, -known % window))
    key, value = (functional.pad(part, (0, 0, 0, -known % window)) for part in (key, value))
    begin = slice(None, window)
    first = _at_once(query[:, :, begin], key[:, :, begin], value[:, :, begin], window, bias, backend)
    query, key, value = (part.unflatten(2, (-1, window)).transpose(1, 2) for part in (query, key, value))
    pairs = [torch.cat([part[:, :-1], part[:, 1:]], 3).flatten(0, 1) for part in (key, value)]
    allowed, added = _seen(window, 2 * window, window, query.device), bias and bias(window, 2 * window)
    rest = attend(query[:, 1:].flatten(0, 1), *pairs, bias=added, allowed=allowed, backend=backend)
    rest = rest.unflatten(0, (query.shape[0], -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, rest], 2)[:, :, known - tokens : known]


def _at_once(query: Tensor, key: Tensor, value: Tensor, window: int, bias: Bias | None, backend: str) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    allowed = None if keys <= window else _seen(queries, keys, window, query.device)
    return attend(query, key, value, bias=bias and bias(queries, keys), allowed=allowed, backend=backend)


def _seen(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """(queries, keys): True from the query's own place back through the window, the last query being the last key."""
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return seen.tril(keys - queries).triu(keys - queries - window + 1)
