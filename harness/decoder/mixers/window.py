"""Attention to the last positions alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.decoder.attention import attend
from harness.decoder.configuration import DecoderConfig
from harness.decoder.contexts import mean_over
from harness.decoder.mixers.full import Full
from harness.decoder.parts import Position, Run


class Window(Full):
    """A token sees itself and the `window` - 1 positions before it.

    Source: Beltagy et al. 2020 (Longformer), section 3.1; Jiang et al. 2023 (Mistral), section 2. A sequence longer
    than the window is cut into blocks of its length; a block sees itself and the one before under one mask, so that
    time and memory grow with the window. The cache keeps the `window` - 1 positions that a next token may see.
    """

    def __init__(self, config: DecoderConfig, layer: int, position: Position, window: int = 16) -> None:
        super().__init__(config, layer, position)
        self.window = window

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        query, key, value = self.projected(hidden, run)
        state = run.state(slot)
        if state is not None:
            kept, keep = state.extras, self.window - 1
            if kept:
                key, value = torch.cat([kept["key"], key], 2), torch.cat([kept["value"], value], 2)
            # A slice would hold on to all it was cut from.
            kept["key"], kept["value"] = key[:, :, -keep:].clone(), value[:, :, -keep:].clone()
        if query.shape[2] > self.window:
            return self.joined(self._in_blocks(query, key, value))
        return self.joined(self._at_once(query, key, value))

    def _at_once(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        queries, keys = query.shape[2], key.shape[2]
        allowed = None if queries == 1 or keys <= self.window else self._seen(queries, keys, query.device)
        bias = self._bias(queries, keys, query.device)
        return attend(query, key, value, bias=bias, allowed=allowed, backend=self.backend)

    def _in_blocks(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        width, tokens, known = self.window, query.shape[2], key.shape[2]
        # Queries that nobody asked stand before the first one, so that queries and keys start at one place.
        query = functional.pad(query, (0, 0, known - tokens, -known % width))
        key, value = (functional.pad(part, (0, 0, 0, -known % width)) for part in (key, value))
        first = self._at_once(query[:, :, :width], key[:, :, :width], value[:, :, :width])
        query, key, value = (part.unflatten(2, (-1, width)).transpose(1, 2) for part in (query, key, value))
        pairs = [torch.cat([part[:, :-1], part[:, 1:]], 3).flatten(0, 1) for part in (key, value)]
        allowed, bias = (made(width, 2 * width, query.device) for made in (self._seen, self._bias))
        rest = attend(query[:, 1:].flatten(0, 1), *pairs, bias=bias, allowed=allowed, backend=self.backend)
        rest = rest.unflatten(0, (query.shape[0], -1)).transpose(1, 2).flatten(2, 3)
        return torch.cat([first, rest], 2)[:, :, known - tokens : known]

    def _seen(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """(queries, keys): True from the query's own place back through the window, the last query the last key."""
        seen = torch.ones(queries, keys, dtype=torch.bool, device=device)
        return seen.tril(keys - queries).triu(keys - queries - self.window + 1)

    def _bias(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """What the position adds, which depends on distances alone: so the first key may stand at place 0."""
        places = torch.arange(keys, device=device)[None]
        return self.position.bias(places[:, keys - queries :], places)

    def mixing(self, first: float, last: float) -> float:
        def total(contexts: float) -> float:
            beyond = max(0.0, contexts - self.window)
            within = contexts - beyond
            return within * (within + 1) / 2 + beyond * self.window

        return 2.0 * self.heads * self.width * mean_over(total, first, last)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return super().held_bytes(min(tokens, self.window - 1), element_bytes)


PART: Any = Window
