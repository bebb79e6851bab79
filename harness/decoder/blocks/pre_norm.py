"""Mixer and feed-forward one after the other, each normalized before and added to its input."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Block, Mixer, Run, make, norm


class PreNorm(Block):
    """Llama's layer."""

    def __init__(self, config: DecoderConfig, layer: int, positions: nn.ModuleList) -> None:
        super().__init__(config, layer, positions)
        self.mixer_norm, self.feed_forward_norm = norm(config), norm(config)
        self.mixer = make("mixer", config, layer, positions[layer % len(positions)], layer=layer)
        self.feed_forward = make("feed_forward", config, layer, layer=layer)

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        before = self.mixer_norm(hidden)
        hidden = hidden + self.mixer(before, run, slot)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden), run, before)

    def mixers(self) -> list[Mixer]:
        return [self.mixer]


PART: Any = PreNorm
