"""One gated feed-forward layer for all tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import FeedForward, Run, linear


class Dense(FeedForward):
    """SwiGLU (Shazeer 2020, section 2) of `width`, the configuration's intermediate size unless said."""

    def __init__(self, config: DecoderConfig, layer: int, width: int | None = None) -> None:
        super().__init__(config, layer)
        width = width or config.intermediate_size
        self.gate, self.up = (linear(config, config.hidden_size, width) for _ in range(2))
        self.down = linear(config, width, config.hidden_size)

    def forward(self, hidden: Tensor, run: Run, before: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(hidden)) * self.up(hidden))


PART: Any = Dense
