"""Energy between two times by a counter that is refreshed now and then."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: A counter that ticks every 100 ms cannot resolve a window of a few ticks: 20 periods bound the error at 5%.
FEWEST_PERIODS = 20


@dataclass(frozen=True)
class CounterEnergy:
    """Energy between two times by a counter that is refreshed now and then, or a reason why not."""

    joules: float | None
    period_seconds: float | None
    periods: float
    reason: str = ""


def counter_energy(readings: Sequence[tuple[int, float]], start_ns: int, end_ns: int) -> CounterEnergy:
    """Energy from `start_ns` to `end_ns` by readings (time in ns, joules since some start) of a stepping counter.

    Only readings at which the counter had just moved carry its true time. The line through the first and the last of
    them inside the window gives mean power over whole periods, which is then taken for the window's edges as well.
    """
    ticks = [after for before, after in zip(readings, readings[1:], strict=False) if after[1] != before[1]]
    ticks = [tick for tick in ticks if start_ns <= tick[0] <= end_ns]
    if len(ticks) < 3:
        return CounterEnergy(None, None, 0.0, "the counter did not move three times in the window; measure longer")
    gaps = [(after[0] - before[0]) / 1e9 for before, after in zip(ticks, ticks[1:], strict=False)]
    period = statistics.median(gaps)
    periods = (end_ns - start_ns) / 1e9 / period
    if periods < FEWEST_PERIODS:
        reason = (
            f"the window has {periods:.0f} periods of the counter; {FEWEST_PERIODS} are needed "
            "(raise protocol.minimum_seconds)"
        )
        return CounterEnergy(None, period, periods, reason)
    watts = (ticks[-1][1] - ticks[0][1]) / ((ticks[-1][0] - ticks[0][0]) / 1e9)
    return CounterEnergy(watts * (end_ns - start_ns) / 1e9, period, periods)
