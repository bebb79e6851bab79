"""Intervals of a mean over a few independent runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats import student

#: Coverage of every interval of the report.
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A centre, and bounds that are None where fewer than two runs stand behind it."""

    center: float
    low: float | None
    high: float | None
    count: int


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean of `values` with Student's t interval; no bounds for one value. ValueError without any."""
    if not values:
        raise ValueError("an interval needs at least one value")
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, None, None, count)
    half = student.quantile(0.5 + level / 2, count - 1) * standard_error(values)
    return Interval(mean, mean - half, mean + half, count)


def ratio_interval(logarithms: Sequence[float], level: float = LEVEL) -> Interval:
    """Geometric mean of ratios given by their natural logarithms, with a t interval taken on the logarithms."""
    found = mean_interval(logarithms, level)
    low = None if found.low is None else math.exp(found.low)
    high = None if found.high is None else math.exp(found.high)
    return Interval(math.exp(found.center), low, high, found.count)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of two values or more."""
    return statistics.stdev(values) / math.sqrt(len(values))
