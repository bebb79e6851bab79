"""What paired ratios say: faster, slower, the same, or not to be told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats.intervals import ratio_interval

#: Up to this many pairs every sign pattern is tried; beyond, a t interval's coverage is good enough alone.
MOST_FLIPPED = 14


@dataclass(frozen=True)
class Verdict:
    """A geometric mean ratio A/B with its 95% interval, the sign-flip p value where it was taken, and a word."""

    ratio: float
    low: float | None
    high: float | None
    p_value: float | None
    text: str


def judge(ratios: Sequence[float], same_within: float, words: tuple[str, str] = ("less", "more")) -> Verdict:
    """Judge ratios A/B of pairs.

    A is called `words[0]` or `words[1]` when the paired t interval of the log ratios excludes 1 and, for few pairs, a
    sign-flip test agrees at 5%; the same when the whole interval lies within `same_within` of 1; else ambiguous. With
    fewer than 6 pairs a sign-flip test cannot reach 5%, so no difference is claimed.
    """
    logs = [math.log(ratio) for ratio in ratios]
    found = ratio_interval(logs)
    p_value = sign_flip(logs) if len(logs) <= MOST_FLIPPED else None
    if found.low is None or found.high is None:
        return Verdict(found.center, None, None, p_value, "ambiguous: one pair has no interval")
    text = _word(found.center, found.low, found.high, p_value, len(logs), same_within, words)
    return Verdict(found.center, found.low, found.high, p_value, text)


def sign_flip(logs: Sequence[float]) -> float:
    """Exact two-sided p value of a zero mean, over all sign patterns; 2^-(n-1) is the smallest there is."""
    observed = abs(sum(logs))
    patterns = itertools.product((1, -1), repeat=len(logs) - 1)
    # The first sign may stay: flipping all signs gives the same absolute sum.
    sums = [abs(logs[0] + sum(s * x for s, x in zip(signs, logs[1:], strict=True))) for signs in patterns]
    return sum(total >= observed * (1 - 1e-12) for total in sums) / len(sums)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: their family-wise error stays at the level."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _word(
    ratio: float, low: float, high: float, p_value: float | None, count: int, same_within: float, words: tuple[str, str]
) -> str:
    if 1 - same_within <= low and high <= 1 + same_within:
        return f"the same within {same_within:.1%}"
    differs = (low > 1 or high < 1) and (p_value is None or p_value <= 0.05)
    if differs:
        return f"A is {words[0] if ratio < 1 else words[1]}"
    return "ambiguous: fewer than 6 pairs" if count < 6 else "ambiguous: more pairs may tell"
