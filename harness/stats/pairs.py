"""What paired ratios say: faster, slower, the same, or not to be told."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats import student
from harness.stats.intervals import ratio_interval, standard_error

#: The share of equal variants that may be called different.
LEVEL = 0.05
#: Up to this many pairs every sign pattern is tried; beyond, the t test's level is good enough alone.
MOST_FLIPPED = 14


@dataclass(frozen=True)
class Verdict:
    """A geometric mean ratio A/B with its 95% interval (None for one pair), its p values, and a word.

    `p_value` is of this column alone, `adjusted_p_value` among all columns of the comparison; the word follows the
    latter, the interval belongs to the former.
    """

    ratio: float
    low: float | None
    high: float | None
    p_value: float
    adjusted_p_value: float
    text: str
    differs: bool


@dataclass(frozen=True)
class Column:
    """Ratios A/B of pairs, and what A is called that has less or more."""

    ratios: Sequence[float]
    words: tuple[str, str] = ("less", "more")


def judge(ratios: Sequence[float], same_within: float, words: tuple[str, str] = ("less", "more")) -> Verdict:
    """Judge ratios A/B of pairs, the only column of their comparison; see `judge_columns`."""
    return judge_columns([Column(ratios, words)], same_within)[0]


def judge_columns(columns: Sequence[Column], same_within: float) -> list[Verdict]:
    """Judge several columns of one comparison, so that all claims together are wrong in at most 5% of comparisons.

    The same when the whole interval lies within `same_within` of 1; else A is called `words[0]` or `words[1]` where
    Holm's adjusted p value is at most 5%; else ambiguous.
    """
    logs = [[math.log(ratio) for ratio in column.ratios] for column in columns]
    p_values = [p_value(each) for each in logs]
    return [
        _verdict(each, p, adjusted, column.words, same_within, len(columns))
        for each, p, adjusted, column in zip(logs, p_values, holm(p_values), columns, strict=True)
    ]


def p_value(logs: Sequence[float]) -> float:
    """Two-sided p value of a zero mean: the paired t test's and, for few pairs, the sign-flip test's where larger.

    The larger of two valid p values is valid. With fewer than 6 pairs it cannot reach 5%; one pair gives 1.
    """
    t_value = t_test(logs) if len(logs) > 1 else 1.0
    return max(t_value, sign_flip(logs)) if len(logs) <= MOST_FLIPPED else t_value


def t_test(logs: Sequence[float]) -> float:
    """Two-sided p value of a zero mean by Student's t, of two values or more."""
    mean, error = statistics.fmean(logs), standard_error(logs)
    if error == 0:
        return float(mean == 0)
    return max(0.0, 2 * (1 - student.cumulative(abs(mean) / error, len(logs) - 1)))


def sign_flip(logs: Sequence[float]) -> float:
    """Exact two-sided p value of a zero mean, over all sign patterns; 2^-(n-1) is the smallest there is."""
    # The first sign may stay: flipping all signs gives the same absolute sum.
    sums = [logs[0]]
    for value in logs[1:]:
        sums = [total + sign * value for sign in (1, -1) for total in sums]
    observed = abs(sums[0]) - 1e-12 * sum(map(abs, logs))
    return sum(abs(total) >= observed for total in sums) / len(sums)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: their family-wise error stays at the level."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def least_pairs(columns: int) -> int:
    """Pairs below which no difference can be claimed among so many columns, however clear each is."""
    return 1 + math.ceil(math.log2(columns / LEVEL))


def _verdict(
    logs: Sequence[float], p: float, adjusted: float, words: tuple[str, str], same_within: float, columns: int
) -> Verdict:
    found = ratio_interval(logs)
    differs = adjusted <= LEVEL
    if found.low is None or found.high is None:
        text = "ambiguous: one pair has no interval"
    elif 1 - same_within <= found.low and found.high <= 1 + same_within:
        text = f"the same within {same_within:.1%}"
    elif differs:
        text = f"A is {words[0] if found.center < 1 else words[1]}"
    elif len(logs) < (least := least_pairs(columns)):
        text = f"ambiguous: fewer than {least} pairs"
    elif p <= LEVEL:
        text = f"ambiguous: a difference alone, not among {columns} columns"
    else:
        text = "ambiguous: more pairs may tell"
    return Verdict(found.center, found.low, found.high, p, adjusted, text, differs)
