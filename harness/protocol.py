"""How long to look: warm-up, stopping rule and window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """When a measurement begins to count and when it is enough.

    The warm-up ends when the median of the last `settle_window` steps lies within `settle_ratio` of the median of the
    same number before them, or at `maximum_warmup_seconds`. The window ends when it has `minimum_samples` and
    `minimum_seconds` and the standard error of the mean is below `target_spread_ratio`, or at `maximum_seconds`; the
    row then says `converged = false`.

    `cache` says what a step finds in the caches: what the step before left (`hot`), or nothing of its own (`cold`: a
    buffer of twice the last-level cache is written before each step, outside its timing). With `sm_clock` two tiny
    kernels beside each step read the clock of the GPU's multiprocessors, outside its timing as well.

    `launches=queued` is for steps of one or a few kernels on a GPU: the device waits until the host has launched them,
    so that a step is the kernels' own time; as they come, a step begins with the wait for its first launch (10 us).
    """

    minimum_warmup_steps: int = 3
    maximum_warmup_seconds: float = 5.0
    settle_window: int = 3
    settle_ratio: float = 0.10
    minimum_samples: int = 10
    minimum_seconds: float = 0.5
    maximum_seconds: float = 10.0
    target_spread_ratio: float = 0.02
    cache: Literal["hot", "cold"] = "hot"
    sm_clock: bool = True
    launches: Literal["as_they_come", "queued"] = "as_they_come"

    def __post_init__(self) -> None:
        if self.minimum_samples < 2:
            raise ValueError("minimum_samples must be at least 2: a spread needs two")
        if self.maximum_seconds < self.minimum_seconds:
            raise ValueError("maximum_seconds is below minimum_seconds: raise it")
        if self.settle_window < 1 or self.minimum_warmup_steps < 1:
            raise ValueError("settle_window and minimum_warmup_steps must be at least 1")
        if self.cache not in ("hot", "cold"):
            raise ValueError("cache must be hot or cold")
        if self.launches not in ("as_they_come", "queued"):
            raise ValueError("launches must be as_they_come or queued")
        for name in ("settle_ratio", "target_spread_ratio"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1")
