"""Quantiles of Student's t, so that an interval over a few repeats needs no further library."""

from __future__ import annotations

import math
from functools import cache


def cumulative(t: float, degrees: int) -> float:
    """P(T <= t) for `degrees` >= 1 whole degrees of freedom.

    Source: the finite series of Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even).
    """
    if degrees < 1:
        raise ValueError("degrees of freedom must be at least 1: give two samples or more")
    angle = math.atan(t / math.sqrt(degrees))
    inside = _odd(angle, degrees) if degrees % 2 else _even(angle, degrees)
    return 0.5 + inside / 2


@cache
def quantile(probability: float, degrees: int) -> float:
    """The t below which `probability` (between 0 and 1, both excluded) of the distribution lies; by bisection."""
    if not 0 < probability < 1:
        raise ValueError("probability must lie between 0 and 1")
    low, high = -1.0, 1.0
    while cumulative(low, degrees) > probability:
        low *= 2
    while cumulative(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if cumulative(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _odd(angle: float, degrees: int) -> float:
    term = total = math.cos(angle) if degrees > 1 else 0.0
    for k in range(3, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total)


def _even(angle: float, degrees: int) -> float:
    term = total = 1.0
    for k in range(2, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    return math.sin(angle) * total
