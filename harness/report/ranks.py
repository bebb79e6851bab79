"""Ranks that say only what the runs can tell apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from harness.report.frame import BOARD
from harness.report.metrics import LATENCY, high_column, low_column, ratio_column


@dataclass(frozen=True)
class Place:
    """Where an entry lies on the logarithm of its ratio to the baseline; `runs` says what the bounds stand on."""

    center: float
    low: float
    high: float
    runs: int


def place_of(entry: dict) -> Place:
    """The t interval of two runs or more; for one run the spread of its steps on both sides, which is no interval."""
    center, low, high = (entry[name(LATENCY)] for name in (ratio_column, low_column, high_column))
    if not pd.isna(low):
        return Place(math.log(center), math.log(low), math.log(high), int(entry["pairs"]))
    spread = entry["latency_spread_ratio"]
    half = math.log1p(0.0 if pd.isna(spread) else spread)
    return Place(math.log(center), math.log(center) - half, math.log(center) + half, 1)


def tied(a: Place, b: Place) -> bool:
    """Whether the runs cannot tell `a` from `b`.

    Two single runs are tied when they differ by less than the spread within either; otherwise overlap decides.
    """
    if a.runs == b.runs == 1:
        return abs(a.center - b.center) <= max(a.high - a.center, b.high - b.center)
    return a.low <= b.high and b.low <= a.high


def rank_range(places: list[Place]) -> list[tuple[int, int]]:
    """Best and worst rank that each place may have: 1 + those surely faster, and all but those surely slower.

    Being tied is not transitive, so a range is what can be said; equal entries share one.
    """
    ranges = []
    for one in places:
        others = [other for other in places if not tied(one, other)]
        faster = sum(other.center < one.center for other in others)
        ranges.append((1 + faster, len(places) - (len(others) - faster)))
    return ranges


def with_ranks(entries: pd.DataFrame) -> pd.DataFrame:
    """Add `rank_best` and `rank_worst` by step time on each board; null for entries that are not ranked."""
    able = entries["ranked"].astype(bool) & entries[ratio_column(LATENCY)].notna()
    found = pd.DataFrame({"rank_best": math.nan, "rank_worst": math.nan}, index=entries.index)
    for _, board in entries[able].groupby(BOARD, dropna=False):
        ranges = rank_range([place_of(entry) for entry in board.to_dict("records")])
        found.loc[board.index, "rank_best"] = [best for best, _ in ranges]
        found.loc[board.index, "rank_worst"] = [worst for _, worst in ranges]
    return pd.concat([entries, found], axis=1)
