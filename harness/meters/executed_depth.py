"""How much of its depth a model ran, where tokens may leave it early."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from harness.interfaces import Meter, Metric, Readings, Window
from harness.run.tensors import live_objects


class ExecutedDepth(Meter):
    """Passes of tokens through layers that were made in the window, over those that full depth would have made.

    A model counts for itself, in a `Tally` of `harness.decoder.ragged`; this meter finds it among the live objects.
    """

    metrics: ClassVar = (
        Metric("executed_depth_ratio", "passes of a token through a layer that were made, over those of full depth"),
    )

    def open(self, device: str) -> None:
        """Nothing is counted yet."""
        self.ratio: float | None = None

    def start(self) -> None:
        """Forget what the warm-up counted."""
        for tally in _tallies():
            tally.ratio()

    def stop(self) -> None:
        """Read the count, which waits for the device."""
        ratios = [tally.ratio() for tally in _tallies()]
        self.ratio = next((ratio for ratio in ratios if ratio is not None), None)

    def readings(self, window: Window) -> Readings:
        """The share, or that tokens cannot leave."""
        return Readings(
            {"executed_depth_ratio": self.ratio}, {"executed_depth_ratio": "no token leaves this model early"}
        )

    def availability(self, device: str) -> Mapping[str, str]:
        """By the model itself."""
        return {"executed depth": "counted by models whose tokens may leave early"}


def _tallies() -> list[Any]:
    networks = sys.modules.get("harness.decoder.ragged")  # not loaded: no model counts
    return [] if networks is None else live_objects(networks.Tally)
