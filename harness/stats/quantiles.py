"""Quantiles of samples, and intervals for them that assume no distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(values: Sequence[float], fraction: float) -> float:
    """Linear interpolation between order statistics (Hyndman and Fan's type 7, NumPy's default)."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def quantile_interval(values: Sequence[float], fraction: float, level: float = 0.95) -> tuple[float, float] | None:
    """Two of `values` that hold the distribution's quantile between them with probability `level` or more.

    None where too few values stand on one side. The values must be independent of each other; nothing else is assumed.
    """
    places = interval_places(len(values), fraction, level)
    if places is None:
        return None
    ordered = sorted(values)
    return ordered[places[0]], ordered[places[1]]


def interval_places(count: int, fraction: float, level: float = 0.95) -> tuple[int, int] | None:
    """Places (from 0) of the two order statistics that bound the quantile of `count` samples; None where none do.

    The number of samples below the quantile is binomial, so each bound misses with at most (1 - level) / 2.
    Source: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2.
    """
    tail = (1 - level) / 2
    below, low, high = 0.0, -1, None
    # Beyond twelve standard deviations lies less than 1e-30: long windows need not be summed from zero.
    reach = 12 * math.sqrt(count * fraction * (1 - fraction)) + 12
    for successes in range(max(0, math.floor(count * fraction - reach)), count):
        below += _binomial(successes, count, fraction)  # P(at most `successes` samples lie below the quantile)
        if below <= tail:
            low = successes
        if below >= 1 - tail:
            high = successes
            break
    return None if low < 0 or high is None else (low, high)


def _binomial(successes: int, count: int, fraction: float) -> float:
    ways = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    return math.exp(ways + successes * math.log(fraction) + (count - successes) * math.log1p(-fraction))
