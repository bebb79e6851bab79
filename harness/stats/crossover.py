"""From which length on one variant is faster than another, and how surely that is known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from harness.stats import student
from harness.stats.separation import ASSUMED_SCATTER, FAMILY_LEVEL, MEASURED_FROM


@dataclass(frozen=True)
class Bounds:
    """The mean logarithm of a ratio, and how far it may lie off on either side."""

    center: float
    half: float

    @property
    def low(self) -> float:
        """Lower bound."""
        return self.center - self.half

    @property
    def high(self) -> float:
        """Upper bound."""
        return self.center + self.half

    @property
    def sign(self) -> int:
        """-1 where the ratio is surely below 1, 1 where surely above, else 0."""
        return -1 if self.high < 0 else int(self.low > 0)


@dataclass(frozen=True)
class Crossover:
    """Where A begins to be faster than B.

    `length` is the crossing of the mean ratio, interpolated on two logarithmic scales; `low` and `high` are those of
    its bounds. All three are None where `kind` names no crossing. What happens between two measured lengths is taken
    for a power law; the bounds hold no doubt about that.
    """

    kind: Literal["from", "already", "never", "only_below", "several", "undecided"]
    text: str
    length: float | None = None
    low: float | None = None
    high: float | None = None


def bounds(
    logarithms: Sequence[float], level: float = 1 - FAMILY_LEVEL, assumed: float = math.sqrt(2) * ASSUMED_SCATTER
) -> Bounds:
    """Mean of paired log ratios with its bounds, by the rule of `harness.stats.separation.p_value`.

    Student's t from three pairs on; below, a normal distribution with the larger of the `assumed` standard deviation of
    a difference and what two pairs show. ValueError without any pair.
    """
    if not logarithms:
        raise ValueError("bounds need at least one pair")
    count, center = len(logarithms), statistics.fmean(logarithms)
    shown = statistics.stdev(logarithms) if count > 1 else 0.0
    if count < MEASURED_FROM:
        reach, deviation = statistics.NormalDist().inv_cdf(0.5 + level / 2), max(assumed, shown)
    else:
        reach, deviation = student.quantile(0.5 + level / 2, count - 1), shown
    return Bounds(center, reach * deviation / math.sqrt(count))


def crossover(ratios: Mapping[float, Sequence[float]], assumed: Mapping[float, float] | None = None) -> Crossover:
    """Where A crosses B, from natural logarithms of a/b (seconds) of pairs of runs, by length.

    Bonferroni's level over the lengths: all bounds hold together with 95%, and so does the interval of the crossing.
    `assumed` is the standard deviation of a difference by length, for lengths with fewer than three pairs. ValueError
    unless there are two lengths or more, all above zero.
    """
    lengths = sorted(ratios)
    if len(lengths) < 2 or lengths[0] <= 0:
        raise ValueError("a crossover needs two lengths or more, all above zero; measure more of them")
    level = 1 - FAMILY_LEVEL / len(lengths)
    usual = math.sqrt(2) * ASSUMED_SCATTER
    found = [bounds(ratios[length], level, (assumed or {}).get(length, usual)) for length in lengths]
    decided = [(length, each.sign) for length, each in zip(lengths, found, strict=True) if each.sign]
    runs = [sign for sign, _ in groupby(sign for _, sign in decided)]
    if not runs:
        return Crossover("undecided", f"undecided between {lengths[0]:g} and {lengths[-1]:g}")
    if runs == [-1, 1]:
        last = max(length for length, sign in decided if sign < 0)
        return Crossover("only_below", f"A is faster at {last:g} and below, slower at {decided[-1][0]:g}")
    if len(runs) > 2:
        places = ", ".join(f"{length:g}" for length, sign in decided if sign < 0)
        return Crossover("several", f"several crossings: A is faster at {places} alone")
    return _single(lengths, found, decided, runs)


def _single(
    lengths: Sequence[float], found: Sequence[Bounds], decided: Sequence[tuple[float, int]], runs: Sequence[int]
) -> Crossover:
    """Signs that change at most once, from slower to faster."""
    shortest, longest, last = lengths[0], lengths[-1], decided[-1][0]
    if runs == [1]:
        if last == longest:
            return Crossover("never", f"never within {shortest:g} to {longest:g}")
        return Crossover("undecided", f"undecided between {last:g} and {longest:g}; slower below")
    beyond = "" if last == longest else f"; undecided beyond {last:g}"
    if runs == [-1] and decided[0][0] == shortest:
        return Crossover("already", f"A is already faster at the shortest length, {shortest:g}{beyond}")
    # Only lengths up to the last decided one: what lies beyond is said apart.
    kept = lengths.index(last) + 1
    lengths, found = lengths[:kept], found[:kept]
    length, low, high = (
        _crossing(lengths, [getattr(each, name) for each in found]) for name in ("center", "low", "high")
    )
    at = f"A is faster from {_place(length, shortest)} on"
    between = f" ({_place(low, shortest)} to {_place(high, shortest)})"
    return Crossover("from", at + between + beyond, length, low, high)


def _crossing(lengths: Sequence[float], logarithms: Sequence[float]) -> float | None:
    """Where the line through the points falls below zero for good; None where all of it lies below."""
    steps = list(zip(pairwise(lengths), pairwise(logarithms), strict=True))
    for (left, right), (before, after) in reversed(steps):
        if before >= 0 > after:
            share = before / (before - after)
            return math.exp(math.log(left) + share * (math.log(right) - math.log(left)))
    return None


def _place(length: float | None, shortest: float) -> str:
    return f"below {shortest:g}" if length is None else f"{length:.4g}"
