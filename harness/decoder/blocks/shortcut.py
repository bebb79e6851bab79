"""Layers in pairs whose mixture of experts runs beside what follows it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.feed_forwards.dense import Dense
from harness.decoder.parts import Block, Mixer, Run, make, norm

#: Where the first layer of a pair leaves what the second adds, among what layers tell each other.
SHORTCUT = "shortcut"


class Shortcut(Block):
    """A mixer and a dense feed-forward of `dense_width`; the configured feed-forward stands in every second layer.

    The first layer of a pair hands the normalized input of its dense feed-forward also to the experts, and the second
    adds what they return at its end: between lie a dense feed-forward and a mixer (ScMoE, arXiv 2404.05019, as
    LongCat-Flash has it, arXiv 2509.01322, section 2.2). That hides the experts' communication among many devices. On
    one, as here, kernels run in the order of their launch, so what can be seen is what it does to quality.
    """

    def __init__(self, config: DecoderConfig, layer: int, positions: nn.ModuleList, dense_width: int) -> None:
        super().__init__(config, layer, positions)
        self.mixer_norm, self.feed_forward_norm = norm(config), norm(config)
        self.mixer = make("mixer", config, layer, positions[layer % len(positions)], layer=layer)
        self.feed_forward = Dense(config, layer, dense_width)
        self.experts = make("feed_forward", config, layer, layer=layer) if layer % 2 == 0 else None

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        before = self.mixer_norm(hidden)
        hidden = hidden + self.mixer(before, run, slot)
        normalized = self.feed_forward_norm(hidden)
        hidden = hidden + self.feed_forward(normalized, run, before)
        if self.experts is None:
            return hidden + run.told.pop(SHORTCUT)
        run.told[SHORTCUT] = self.experts(normalized, run, before)
        return hidden

    def mixers(self) -> list[Mixer]:
        return [self.mixer]


PART: Any = Shortcut
