"""Linear layers as a product of two narrow ones."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig


class LowRank(nn.Module):
    """A weight of outputs x inputs as the product of outputs x rank and rank x inputs.

    The factors begin so that their product has the spread that the whole weight would have begun with.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, rank: int, spread: float) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=bias)
        for weight in (self.down.weight, self.up.weight):
            nn.init.normal_(weight, std=math.sqrt(spread) / rank**0.25)
            weight._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers would begin it otherwise

    def forward(self, hidden: Tensor) -> Tensor:
        return self.up(self.down(hidden))


def low_rank(config: DecoderConfig, inputs: int, outputs: int, bias: bool, rank: int = 32) -> Any:
    """Of this rank, or whole where two factors would not be smaller.

    Source: Cahyawijaya 2021 (Greenformers, arXiv 2108.10808), the Low-Rank Transformer; Winata et al. 2020
    (arXiv 1910.13923).
    """
    if rank * (inputs + outputs) >= inputs * outputs:
        return nn.Linear(inputs, outputs, bias=bias)
    return LowRank(inputs, outputs, bias, rank, config.initializer_range)


PART: Any = low_rank
