"""Energy between two times by a counter that is refreshed now and then, with bounds that follow from its readings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: A counter that ticks every 100 ms cannot resolve a window of a few ticks: 20 periods bound the error at 5%.
FEWEST_PERIODS = 20
#: A counter that was seen not to move for this many of its periods stands still: no GPU draws nothing.
STUCK_PERIODS = 5
#: Power between two updates that no part reaches, as a multiple of its limit.
IMPOSSIBLE_POWER = 2.0

#: When the counter was read (ns of a monotonic clock) and its joules since some start.
Reading = tuple[int, float]
#: Two readings in a row between which the counter moved.
Tick = tuple[Reading, Reading]


@dataclass(frozen=True)
class CounterEnergy:
    """Energy between two times, how far off it can be, and the counter's refresh period; or a reason why not."""

    joules: float | None
    uncertainty_joules: float | None
    period_seconds: float | None
    periods: float
    reason: str = ""


def counter_energy(
    readings: Sequence[Reading], start_ns: int, end_ns: int, power_limit_watts: float | None = None
) -> CounterEnergy:
    """Energy from `start_ns` to `end_ns` by readings of a stepping counter, from before the start until it has moved
    again after the end.

    Only readings at which the counter had just moved carry its time. The line through the first and the last of them
    inside the window gives mean power over whole periods, which is then taken for the window's edges as well. The
    bounds need no such assumption: energy only grows, so at an edge it lies between the values read before and after.
    """
    ticks = [(before, after) for before, after in pairwise(readings) if after[1] != before[1]]
    if any(after[1] < before[1] for before, after in ticks):
        return CounterEnergy(None, None, None, 0.0, "the counter went backwards: it was reset")
    inside = [after for _, after in ticks if start_ns <= after[0] <= end_ns]
    if len(inside) < 3:
        reason = "the counter did not move three times in the window; measure longer"
        return CounterEnergy(None, None, None, 0.0, reason)
    period = statistics.median((after[0] - before[0]) / 1e9 for before, after in pairwise(inside))
    seconds = (end_ns - start_ns) / 1e9
    periods = seconds / period
    reason = _fault(readings, ticks, period, power_limit_watts)
    if not reason and periods < FEWEST_PERIODS:
        reason = (
            f"the window has {periods:.1f} periods of the counter; {FEWEST_PERIODS} are needed "
            "(raise protocol.minimum_seconds)"
        )
    edges = None if reason else (_bounds(readings, ticks, start_ns), _bounds(readings, ticks, end_ns))
    if edges is None:
        return CounterEnergy(None, None, period, periods, reason)
    if edges[0] is None or edges[1] is None:
        reason = "the counter was not read from before the window until it moved again after it"
        return CounterEnergy(None, None, period, periods, reason)
    quantum = _quantum(ticks)
    least, most = edges[1][0] - edges[0][1] - quantum, edges[1][1] - edges[0][0] + quantum
    watts = (inside[-1][1] - inside[0][1]) / ((inside[-1][0] - inside[0][0]) / 1e9)
    joules = min(max(watts * seconds, least), most)
    return CounterEnergy(joules, max(joules - least, most - joules), period, periods)


def _fault(readings: Sequence[Reading], ticks: Sequence[Tick], period: float, limit: float | None) -> str:
    """Why a counter that moved cannot be believed, or nothing."""
    moved = [readings[0][0], *[after[0] for _, after in ticks]]
    last_still = [*[before[0] for before, _ in ticks], readings[-1][0]]
    still = max((until - since) / 1e9 for since, until in zip(moved, last_still, strict=True))
    if still > STUCK_PERIODS * period:
        return f"the counter stood still for {still:.2g} s, though it moves every {period:.2g} s"
    if limit is None:
        return ""
    for first, second in pairwise(ticks):
        # The most time that can lie between the two updates, so that late readings are never called a jump.
        longest = (second[1][0] - first[0][0]) / 1e9
        joules = second[1][1] - first[1][1]
        if joules > IMPOSSIBLE_POWER * limit * longest:
            return f"the counter jumped by {joules:.4g} J in {longest:.2g} s, beyond the power limit of {limit:.0f} W"
    return ""


def _bounds(readings: Sequence[Reading], ticks: Sequence[Tick], time_ns: int) -> tuple[float, float] | None:
    """Least and most that the counter's energy was at `time_ns`; None where no reading bounds it."""
    before = [joules for at, joules in readings if at <= time_ns]
    after = [moved[1] for unmoved, moved in ticks if unmoved[0] >= time_ns]
    return (before[-1], after[0]) if before and after else None


def _quantum(ticks: Sequence[Tick]) -> float:
    """Joules that the counter can hide by counting in whole units, at most: what all its moves are multiples of."""
    return math.gcd(*(round((after[1] - before[1]) * 1e3) for before, after in ticks)) / 1e3
