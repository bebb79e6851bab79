"""Decoding whose every step is slower by a known share: what a comparison must find."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.interfaces import Context, Session
from harness.workloads.decode import Decode


@dataclass(frozen=True)
class SlowedDecode(Decode):
    """`decode`, busy for `slow_ratio` of each step's own time after it; with 0 everything but the wait is the same."""

    slow_ratio: float = 0.0

    def prepare(self, model: Any, context: Context) -> Session:
        """A session whose step waits inside the timed span."""
        session = super().prepare(model, context)
        session.step = slowed(session.step, self.slow_ratio, context.device)  # type: ignore[method-assign]
        return session


def slowed(step: Callable[[], None], ratio: float, device: str) -> Callable[[], None]:
    """`step`, then a busy wait of `ratio` times what it took, the device included."""
    import torch

    def longer() -> None:
        begin = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        end = time.perf_counter()
        until = end + ratio * (end - begin)
        while time.perf_counter() < until:
            pass

    return longer
