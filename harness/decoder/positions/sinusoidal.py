"""Sines and cosines of the place, added to the embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoder.parts import Position


class Sinusoidal(Position):
    """Numbers 2i and 2i + 1 of a place are the sine and cosine of place / 10000^(2i / hidden size).

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5; the embeddings they are added to are scaled by the
    root of the hidden size (section 3.4), or the sinusoids would drown them.
    """

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        width = hidden.shape[-1]
        return hidden * width**0.5 + sinusoids(positions, width).to(hidden.dtype)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """(batch, tokens) places to (batch, tokens, width)."""
    pairs = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * 10000.0 ** (-pairs / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


PART: Any = Sinusoidal
