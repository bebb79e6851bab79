"""Attention to the last positions alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.full import Full
from harness.decoder.parts import Position, Run
from harness.decoder.sums import mean_over, sum_of_minima
from harness.decoder.window import attend_window


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
        options: dict[str, Any] = {"bias": lambda queries, keys: self._bias(queries, keys, query.device)}
        return self.joined(attend_window(query, key, value, self.window, backend=self.backend, **options))

    def _bias(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """What the position adds, which depends on distances alone: so the first key may stand at place 0."""
        places = torch.arange(keys, device=device)[None]
        return self.position.bias(places[:, keys - queries :], places)

    def mixing(self, first: float, last: float) -> float:
        seen = mean_over(lambda count: sum_of_minima(count, self.window), first, last)
        return 2.0 * self.heads * self.width * seen

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return super().held_bytes(min(tokens, self.window - 1), element_bytes)


PART: Any = Window
