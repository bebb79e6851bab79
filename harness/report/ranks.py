"""Ranks that say only what the runs can tell apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from harness.report.frame import BOARD
from harness.report.metrics import LATENCY, MEMORY, high_column, low_column, ratio_column
from harness.report.ratios import BY_SEED
from harness.report.wording import missing
from harness.stats.separation import ASSUMED_SCATTER, separations

#: Peaks of memory hardly vary between runs; below this share a difference is not worth a choice.
ASSUMED_MEMORY_SCATTER = 0.002
MEMORY_MARGIN = 0.01
#: Interquartile range of a normal distribution over its standard deviation.
_QUARTILES = 1.349


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


def signs_of(entries: list[dict], metric: str) -> list[list[int]]:
    """For each two `entries` -1 where the first has surely less of `metric`, 1 where surely more, else 0.

    Everything that one board compares by one number is one family: at most one board in twenty whose entries are all
    alike shows any difference. Runs of one seed are paired; below three, processes are assumed to scatter by 5%, or as
    much as the steps within a run where that is more.
    """
    values = [entry[BY_SEED].get(metric, {}) for entry in entries]
    found = separations(values, [scatter_of(entry, metric) for entry in entries])
    if metric == MEMORY:
        centers = [entry[ratio_column(metric)] for entry in entries]
        found = [
            [sign if sign and abs(math.log(own / other)) > math.log1p(MEMORY_MARGIN) else 0
             for sign, other in zip(signs, centers, strict=True)]
            for signs, own in zip(found, centers, strict=True)
        ]  # fmt: skip
    return found


def scatter_of(entry: dict, metric: str) -> float:
    """The standard deviation of a logarithm between processes to assume where fewer than three runs show it."""
    if metric == MEMORY:
        return ASSUMED_MEMORY_SCATTER
    spread = entry["latency_spread_ratio"]
    return max(ASSUMED_SCATTER, 0.0 if missing(spread) else spread / _QUARTILES)


def rank_range(signs: list[list[int]]) -> list[tuple[int, int]]:
    """Best and worst rank that each entry may have: 1 + those surely faster, and all but those surely slower.

    Being tied is not transitive, so a range is what can be said; equal entries share one.
    """
    return [(1 + row.count(1), len(row) - row.count(-1)) for row in signs]


def with_ranks(entries: pd.DataFrame) -> pd.DataFrame:
    """Add `rank_best` and `rank_worst` by step time on each board; null for entries that are not ranked."""
    able = entries["ranked"].astype(bool) & entries[ratio_column(LATENCY)].notna()
    needed = entries.loc[able, [BY_SEED, ratio_column(LATENCY), "latency_spread_ratio"]].to_dict("records")
    found = pd.DataFrame({"rank_best": math.nan, "rank_worst": math.nan}, index=entries.index)
    for places in entries[able].groupby(BOARD, dropna=False).indices.values():
        ranges = rank_range(signs_of([needed[place] for place in places], LATENCY))
        found.loc[entries.index[able][places]] = ranges
    return pd.concat([entries, found], axis=1)
