"""The same layers several times over, between a first and a last one of their own."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Block, Mixer, Run, Stack, make


class Recursive(Stack):
    """Middle-Cycle sharing (Mixture-of-Recursions, arXiv 2507.10524, section 2.1).

    All layers but the first and the last are `recursions` runs of the same ones, in the same order. As many layers run
    as the configuration says, and each run keeps keys and values of its own.
    """

    def __init__(self, config: DecoderConfig, positions: nn.ModuleList, recursions: int = 2) -> None:
        super().__init__(config, positions)
        middle = config.num_hidden_layers - 2
        if recursions < 2 or middle < recursions or middle % recursions:
            raise ValueError(
                f"{middle} layers between the first and the last do not divide into {recursions} runs; "
                "change recursions, at least 2, or num_hidden_layers"
            )
        self.recursions, self.last_slot = recursions, config.num_hidden_layers - 1
        self.first, self.last = (make("block", config, layer, positions) for layer in (0, self.last_slot))
        self.shared = nn.ModuleList(
            make("block", config, 1 + layer, positions) for layer in range(middle // recursions)
        )
        for block in self.shared:
            cast("Any", block).runs_per_token = float(recursions)

    def forward(self, hidden: Tensor, run: Run) -> Tensor:
        hidden = self.first(hidden, run, 0)
        for recursion in range(self.recursions):
            hidden = self.once(hidden, run, recursion)
        return self.last(hidden, run, self.last_slot)

    def once(self, hidden: Tensor, run: Run, recursion: int) -> Tensor:
        """One run of the shared layers."""
        for slot, block in enumerate(self.shared, self.slot(recursion)):
            hidden = block(hidden, run, slot)
        return hidden

    def slot(self, recursion: int) -> int:
        """Where the first shared layer keeps what this run needs later."""
        return 1 + recursion * len(self.shared)

    def mixers(self) -> list[tuple[Mixer, float]]:
        own = [(mixer, 1.0) for block in (self.first, self.last) for mixer in block.mixers()]
        return own + [(mixer, float(self.recursions)) for mixer in self.shared_mixers()]

    def shared_mixers(self) -> list[Mixer]:
        """The mixers of one run."""
        return [mixer for block in cast("list[Block]", list(self.shared)) for mixer in block.mixers()]


PART: Any = Recursive
