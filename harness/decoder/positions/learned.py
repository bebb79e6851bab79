"""A trained vector for each place, added to the embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Position


class Learned(Position):
    """As in GPT-2 (Radford et al. 2019): as many places as `max_position_embeddings` says, and none beyond."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.places = config.max_position_embeddings
        self.vectors = nn.Embedding(self.places, config.hidden_size)

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        return hidden + self.vectors(positions)


PART: Any = Learned
