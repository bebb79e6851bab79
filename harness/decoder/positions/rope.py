"""Rotary positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Position


class Rope(Position):
    """Pairs of a head's numbers turn with the place (Su et al. 2021, section 3.2.2), halves apart as in Llama."""

    def __init__(self, config: DecoderConfig, theta: float | None = None) -> None:
        super().__init__(config)
        self.theta = theta or float(config.rope_parameters["rope_theta"])
        self.width = config.head_dim

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        half = torch.arange(0, self.width, 2, device=heads.device, dtype=torch.float32)
        angles = positions[:, None, :, None].float() * self.theta ** (-half / self.width)
        cosine, sine = (torch.cat([turn, turn], -1).to(heads.dtype) for turn in (angles.cos(), angles.sin()))
        left, right = heads.chunk(2, -1)
        return heads * cosine + torch.cat([-right, left], -1) * sine


PART: Any = Rope
