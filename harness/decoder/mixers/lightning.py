"""Lightning attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Position, Run, linear, norm
from harness.decoder.recurrence import decayed, least


class Lightning(Mixer):
    """Linear attention with a fixed decay by head and layer, normalized and gated.

    Lightning Attention-2 (arXiv 2401.04658, section 3.2) as MiniMax-01 has it (arXiv 2501.08313, section 2.2): SiLU on
    queries, keys and values, no rotary places, a sigmoid gate of the output. What is kept is one matrix a head in
    float32, however long the sequence. By chunks of 64 in torch's products; the authors' fused kernel would spare the
    trips to memory between them.
    """

    def __init__(self, config: DecoderConfig, layer: int, position: Position) -> None:
        super().__init__(config, layer)
        self.heads, self.width = config.num_attention_heads, config.head_dim
        inner = self.heads * self.width
        self.query, self.key, self.value, self.gate = (linear(config, config.hidden_size, inner) for _ in range(4))
        self.norm, self.output = norm(config, inner), linear(config, inner, config.hidden_size)
        #: The deeper the layer, the slower all heads forget.
        self.slowness = 1 - layer / (config.num_hidden_layers - 1 + 1e-5) + 1e-5

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        query, key, value = (
            functional.silu(part(hidden)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        state = run.state(slot)
        kept = {} if state is None else state.extras
        rates = self.rates(hidden.device)[None, :, None].expand(1, -1, hidden.shape[1])
        mixed, matrix = decayed(query, key, value, -rates, kept.get("matrix"))
        kept["matrix"] = matrix
        mixed = self.norm(mixed.transpose(1, 2).flatten(2))
        return self.output(self.gate(hidden).sigmoid() * mixed)

    def rates(self, device: torch.device) -> Tensor:
        """ALiBi's slopes, 2^(-8 h / heads) for head h, times the layer's slowness."""
        heads = torch.arange(1, self.heads + 1, device=device, dtype=torch.float32)
        return self.slowness * 2 ** (-8 * heads / self.heads)

    def mixing(self, first: float, last: float) -> float:
        """A token's key and value into the matrix, and its query through it."""
        return least(2.0 * self.heads * self.width**2, 2.0 * self.heads * self.width, first, last)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return 4.0 * self.heads * self.width**2


PART: Any = Lightning
