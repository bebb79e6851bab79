"""RWKV's time mixing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Position, Run, linear
from harness.decoder.recurrence import weighted_averages


class TimeMix(Mixer):
    """An average of the values before, weighted by keys that fade at a learned rate by channel, behind a gate.

    RWKV (arXiv 2305.13048), section 3.1, equations 11 to 18; initial values as in appendix E. All averages are found
    in log2(tokens) steps over the sequence, each through memory; the authors' kernel (wkv) makes one pass.
    """

    def __init__(self, config: DecoderConfig, layer: int, position: Position) -> None:
        super().__init__(config, layer)
        self.hidden = config.hidden_size
        depth = layer / max(1, config.num_hidden_layers - 1)
        place = torch.arange(self.hidden) / max(1, self.hidden - 1)
        self.decay = nn.Parameter(-5 + 8 * place ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(0.5 * ((torch.arange(self.hidden) + 1) % 3 - 1) + math.log(0.3))
        weights = shift_weights(config, layer)
        self.key_shift, self.value_shift, self.gate_shift = (
            nn.Parameter(item) for item in (weights, weights + 0.3 * depth, weights.sqrt())
        )
        self.key, self.value, self.gate, self.output = (linear(config, self.hidden, self.hidden) for _ in range(4))

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        state = run.state(slot)
        kept = {} if state is None else state.extras
        before = token_before(hidden, kept, "time_mix")
        key, value, gate = (
            part(torch.lerp(before, hidden, share))
            for part, share in (
                (self.key, self.key_shift),
                (self.value, self.value_shift),
                (self.gate, self.gate_shift),
            )
        )
        average, kept["averages"] = weighted_averages(
            key, value, self.decay.float().exp(), self.bonus, kept.get("averages")
        )
        return self.output(gate.sigmoid() * average.to(hidden.dtype))

    def mixing(self, first: float, last: float) -> float:
        """No product of matrices: a few numbers by channel, which are left out as activations are."""
        return 0.0

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        """Two sums and their scale in float32, and the token before."""
        return self.hidden * (3.0 * 4 + element_bytes)


def token_before(hidden: Tensor, kept: dict[str, Any], name: str) -> Tensor:
    """Each token's predecessor, zeros for the first of a sequence; the last token is kept under `name`."""
    last = kept.get(name)
    if last is None:
        last = torch.zeros_like(hidden[:, :1])
    kept[name] = hidden[:, -1:].clone()
    return torch.cat([last, hidden[:, :-1]], 1)


def shift_weights(config: DecoderConfig, layer: int) -> Tensor:
    """Shares of a token against its predecessor's at the start: rising over the channels, and towards 1 with depth."""
    return (torch.arange(config.hidden_size) / config.hidden_size) ** (1 - layer / config.num_hidden_layers)


PART: Any = TimeMix
