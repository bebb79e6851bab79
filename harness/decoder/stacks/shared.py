"""One layer applied again and again."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Run, Stack, make, norm


class Shared(Stack):
    """Every layer has the same mixer and feed-forward, and norms of its own (WideNet, arXiv 2107.11817, section 3.2).

    The norms let each application see another input; with a mixture of experts it also visits others. Each application
    keeps its own keys and values.
    """

    def __init__(self, config: DecoderConfig, positions: nn.ModuleList) -> None:
        super().__init__(config, positions)
        if config.part("block")["kind"] != "pre_norm" or len(positions) > 1:
            raise ValueError("a shared layer is a pre_norm block with one kind of position; take the other parts out")
        self.layers = config.num_hidden_layers
        parts = {
            "mixer": make("mixer", config, 0, positions[0]),
            "feed_forward": make("feed_forward", config, 0),
        }
        self.layer = _Repeated(parts, self.layers)
        self.mixer_norms, self.feed_forward_norms = (
            nn.ModuleList(norm(config) for _ in range(self.layers)) for _ in range(2)
        )

    def forward(self, hidden: Tensor, run: Run) -> Tensor:
        mixer, feed_forward = self.layer["mixer"], self.layer["feed_forward"]
        for slot in range(self.layers):
            before = self.mixer_norms[slot](hidden)
            hidden = hidden + mixer(before, run, slot)
            hidden = hidden + feed_forward(self.feed_forward_norms[slot](hidden), run, before)
        return hidden

    def mixers(self) -> list[tuple[Mixer, float]]:
        mixer: Any = self.layer["mixer"]
        return [(mixer, float(self.layers))]


class _Repeated(nn.ModuleDict):
    """Parts that a token passes so many times."""

    def __init__(self, parts: dict[str, Any], times: int) -> None:
        super().__init__(parts)
        self.runs_per_token = float(times)


PART: Any = Shared
