"""As many layers as the configuration says, each with its own weights."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Block, Mixer, Run, Stack, make


class Layers(Stack):
    """One after the other."""

    def __init__(self, config: DecoderConfig, positions: nn.ModuleList) -> None:
        super().__init__(config, positions)
        self.blocks = nn.ModuleList(
            make("block", config, layer, positions) for layer in range(config.num_hidden_layers)
        )

    def forward(self, hidden: Tensor, run: Run) -> Tensor:
        for slot, block in enumerate(self.blocks):
            hidden = block(hidden, run, slot)
        return hidden

    def mixers(self) -> list[tuple[Mixer, float]]:
        return [(mixer, 1.0) for block in cast("list[Block]", list(self.blocks)) for mixer in block.mixers()]


PART: Any = Layers
