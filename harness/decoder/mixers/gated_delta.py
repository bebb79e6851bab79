"""Gated DeltaNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Position, Run, linear, norm
from harness.decoder.recurrence import ShortConvolution, decayed, least, log_decay_rates


class GatedDelta(Mixer):
    """Linear attention whose state decays by what is read and is corrected rather than added to.

    Gated Delta Networks (arXiv 2412.06464), section 3.1, equation 10, and figure 1 for what is around it: queries, keys
    and values through a short convolution and SiLU, queries and keys of length one, the output normalized by head and
    gated. Key widths are 0.75 times the hidden size over the heads and values twice as wide unless said (section 4). By
    chunks of 64 in torch's products; fused kernels such as flash-linear-attention's would mend what that costs.
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer: int,
        position: Position,
        key_width: int | None = None,
        value_width: int | None = None,
        kernel: int = 4,
    ) -> None:
        super().__init__(config, layer)
        self.heads, self.kernel = config.num_attention_heads, kernel
        self.key_width = key_width or 3 * config.hidden_size // (4 * self.heads)
        self.value_width = value_width or 2 * self.key_width
        keys, values = self.heads * self.key_width, self.heads * self.value_width
        self.query, self.key = (linear(config, config.hidden_size, keys) for _ in range(2))
        self.value, self.gate = (linear(config, config.hidden_size, values) for _ in range(2))
        self.strength, self.step = (linear(config, config.hidden_size, self.heads) for _ in range(2))
        self.log_rate, self.step_bias = log_decay_rates(self.heads)
        self.convolution = ShortConvolution(2 * keys + values, kernel, bias=False)
        self.norm, self.output = norm(config, self.value_width), linear(config, values, config.hidden_size)

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        state = run.state(slot)
        kept = None if state is None else state.extras
        mixed = torch.cat([part(hidden) for part in (self.query, self.key, self.value)], -1)
        keys = self.heads * self.key_width
        query, key, value = (
            item.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for item in self.convolution(mixed, kept).split([keys, keys, self.heads * self.value_width], -1)
        )
        query, key = (_unit(item) for item in (query, key))
        strength = self.strength(hidden).float().sigmoid().transpose(1, 2)
        decay = -self.log_rate.float().exp() * functional.softplus(self.step(hidden).float() + self.step_bias.float())
        matrix = None if kept is None else kept.get("matrix")
        read, matrix = decayed(query / self.key_width**0.5, key, value, decay.transpose(1, 2), matrix, strength)
        if kept is not None:
            kept["matrix"] = matrix
        gate = functional.silu(self.gate(hidden)).unflatten(-1, (self.heads, -1))
        return self.output((self.norm(read.transpose(1, 2)) * gate).flatten(2))

    def mixing(self, first: float, last: float) -> float:
        """What the state says under the key, the correction into it, and the query through it."""
        by_pair = 2.0 * self.heads * (self.key_width + self.value_width)
        return least(3.0 * self.heads * self.key_width * self.value_width, by_pair, first, last)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        """A matrix a head in float32, and what the convolution looks back to."""
        channels = self.heads * (2 * self.key_width + self.value_width)
        return 4.0 * self.heads * self.key_width * self.value_width + (self.kernel - 1) * channels * element_bytes


def _unit(heads: Tensor) -> Tensor:
    """Of length one."""
    squares = heads.float().square().sum(-1, keepdim=True)
    return (heads * torch.rsqrt(squares + 1e-6)).to(heads.dtype)


PART: Any = GatedDelta
