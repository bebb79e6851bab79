"""Time mixing and channel mixing one after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.rwkv import shift_weights, token_before
from harness.decoder.parts import Block, Mixer, Run, linear, make, norm


class ChannelMix(Mixer):
    """A gated feed-forward layer with squared ReLU that sees each token and its predecessor.

    RWKV (arXiv 2305.13048), section 3.1, equations 14 and 15. It keeps the predecessor, so it is a mixer.
    """

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.hidden = config.hidden_size
        self.key = linear(config, self.hidden, config.intermediate_size)
        self.value = linear(config, config.intermediate_size, self.hidden)
        self.gate = linear(config, self.hidden, self.hidden)
        self.key_shift, self.gate_shift = (nn.Parameter(shift_weights(config, layer)) for _ in range(2))

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        state = run.state(slot)
        before = token_before(hidden, {} if state is None else state.extras, "channel_mix")
        key = self.key(torch.lerp(before, hidden, self.key_shift))
        gate = self.gate(torch.lerp(before, hidden, self.gate_shift))
        return gate.sigmoid() * self.value(functional.relu(key).square())

    def mixing(self, first: float, last: float) -> float:
        return 0.0

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return float(self.hidden * element_bytes)


class Rwkv(Block):
    """Each normalized before and added to its input, as in the paper's figure 2."""

    def __init__(self, config: DecoderConfig, layer: int, positions: nn.ModuleList) -> None:
        super().__init__(config, layer, positions)
        self.mixer_norm, self.channel_norm = norm(config), norm(config)
        self.mixer = make("mixer", config, layer, positions[layer % len(positions)], layer=layer)
        self.channel_mix = ChannelMix(config, layer)

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        hidden = hidden + self.mixer(self.mixer_norm(hidden), run, slot)
        return hidden + self.channel_mix(self.channel_norm(hidden), run, slot)

    def mixers(self) -> list[Mixer]:
        return [self.mixer, self.channel_mix]


PART: Any = Rwkv
