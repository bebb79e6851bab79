"""Attention to every position before, with as many key-value heads as the configuration says."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.decoder.attention import attend
from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Position, Run, linear


class Full(Mixer):
    """Grouped-query attention; with as many groups as heads, multi-head attention (Vaswani et al. 2017, 3.2)."""

    def __init__(self, config: DecoderConfig, layer: int, position: Position) -> None:
        super().__init__(config, layer)
        self.config, self.width = config, config.head_dim
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.query = linear(config, config.hidden_size, self.heads * self.width, config.attention_bias)
        self.key = linear(config, config.hidden_size, self.groups * self.width, config.attention_bias)
        self.value = linear(config, config.hidden_size, self.groups * self.width, config.attention_bias)
        self.output = linear(config, self.heads * self.width, config.hidden_size)
        # The model owns it, because layers share it: a list keeps it from being registered here as well.
        self._position = [position]

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        query, key, value = self.projected(hidden, run)
        state = run.state(slot)
        if state is not None:
            key, value = state.update(key, value)
        bias = self.bias(run, key.shape[2])
        return self.joined(attend(query, key, value, bias=bias, allowed=run.allowed, backend=self.backend))

    @property
    def position(self) -> Position:
        """How places are told in this layer."""
        return self._position[0]

    @property
    def backend(self) -> str:
        """transformers' name of the implementation; what is not `eager` runs through torch's fused attention."""
        return str(self.config._attn_implementation)

    def projected(self, hidden: Tensor, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, heads, tokens, width), and keys and values with their groups, with places told."""
        query, key, value = (
            part(hidden).unflatten(-1, (-1, self.width)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        rotate = self.position.rotate
        return rotate(query, run.positions), rotate(key, run.positions), value

    def bias(self, run: Run, keys: int) -> Tensor | None:
        """What the position adds to the scores of this pass's queries over the first `keys` positions."""
        import torch

        return self.position.bias(run.positions, torch.arange(keys, device=run.positions.device)[None])

    def joined(self, heads: Tensor) -> Tensor:
        """(batch, heads, tokens, width) to (batch, tokens, hidden)."""
        return self.output(heads.transpose(1, 2).flatten(2))

    def mixing(self, first: float, last: float) -> float:
        return 2.0 * self.heads * self.width * (first + last) / 2

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return 2.0 * self.groups * self.width * tokens * element_bytes


PART: Any = Full
