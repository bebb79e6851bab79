"""A mixer without a feed-forward layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Block, Mixer, Run, make, norm


class MixerOnly(Block):
    """Normalized before and added to its input: Mamba's layer (arXiv 2312.00752, section 3.4)."""

    def __init__(self, config: DecoderConfig, layer: int, positions: nn.ModuleList) -> None:
        super().__init__(config, layer, positions)
        self.mixer_norm = norm(config)
        self.mixer = make("mixer", config, layer, positions[layer % len(positions)], layer=layer)

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        return hidden + self.mixer(self.mixer_norm(hidden), run, slot)

    def mixers(self) -> list[Mixer]:
        return [self.mixer]


PART: Any = MixerOnly
