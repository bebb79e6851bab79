"""Mamba-2's state space layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Position, Run, linear, norm
from harness.decoder.recurrence import ShortConvolution, decayed, least, log_decay_rates


class Mamba2(Mixer):
    """A selective state space of `state_size` numbers for each of `intermediate_size` channels, decaying by head.

    Mamba-2 (arXiv 2405.21060): the duality with masked attention that computes it (section 6), one group of state
    matrices for all heads (section 7.2) and the block with its short convolution, gate and norm (section 7.1, figure
    6). By chunks of 64 in torch's products; the authors' kernels (mamba_ssm) would spare the trips to memory between.
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer: int,
        position: Position,
        state_size: int = 128,
        head_width: int = 64,
        kernel: int = 4,
    ) -> None:
        super().__init__(config, layer)
        self.inner, self.state_size, self.kernel = config.intermediate_size, state_size, kernel
        if self.inner % head_width:
            raise ValueError(f"Mamba-2's intermediate_size {self.inner} must be a multiple of head_width {head_width}")
        self.heads = self.inner // head_width
        self.channels = self.inner + 2 * state_size
        self.input = linear(config, config.hidden_size, self.inner + self.channels + self.heads)
        self.convolution = ShortConvolution(self.channels, kernel, bias=True)
        self.log_rate, self.step_bias = log_decay_rates(self.heads)
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm, self.output = norm(config, self.inner), linear(config, self.inner, config.hidden_size)

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        state = run.state(slot)
        kept = None if state is None else state.extras
        gate, mixed, step = self.input(hidden).split([self.inner, self.channels, self.heads], -1)
        value, key, query = self.convolution(mixed, kept).split([self.inner, self.state_size, self.state_size], -1)
        value = value.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        step = functional.softplus(step.float() + self.step_bias.float()).transpose(1, 2)
        decay = -self.log_rate.float().exp()[:, None] * step
        matrix = None if kept is None else kept.get("matrix")
        stepped = (value * step[..., None]).to(value.dtype)
        read, matrix = decayed(query[:, None], key[:, None], stepped, decay, matrix)
        if kept is not None:
            kept["matrix"] = matrix
        read = (read + self.skip[:, None, None] * value).transpose(1, 2).flatten(2)
        return self.output(self.norm(read * functional.silu(gate)))

    def mixing(self, first: float, last: float) -> float:
        """Into the state and out of it; the convolution's weights count with the linear layers'."""
        return least(2.0 * self.inner * self.state_size, self.inner + self.state_size, first, last)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        """The state in float32, and what the convolution looks back to."""
        return 4.0 * self.inner * self.state_size + (self.kernel - 1) * self.channels * element_bytes


PART: Any = Mamba2
