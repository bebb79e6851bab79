"""Every entry over the baseline of its board, run by run: only runs of one seed are compared with each other."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from harness.report.entries import BASELINE, KEYS, counted
from harness.report.frame import BOARD
from harness.report.metrics import METRICS, QUALITY, high_column, low_column, ratio_column
from harness.stats.intervals import mean_interval, ratio_interval, standard_error

PAIR = [*BOARD, "seed"]
#: Column with a dictionary: metric -> seed -> logarithm of the ratio (of quality: the difference).
BY_SEED = "by_seed"


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """Each comparable row beside the baseline row of its board and seed, whose numbers end in `_baseline`.

    A board holds one baseline run per seed: where there are more (another set of meters), the newest.
    """
    usable = counted(rows)
    baseline = usable[usable["technique"] == BASELINE].sort_values("started_at", kind="stable")
    baseline = baseline.drop_duplicates(PAIR, keep="last")[[*PAIR, *METRICS]]
    return usable.merge(baseline, on=PAIR, how="inner", suffixes=("", "_baseline"), validate="m:1")


def ratios_of(rows: pd.DataFrame) -> pd.DataFrame:
    """By entry: for each metric the geometric mean ratio with a 95% t interval on logarithms, and `pairs`.

    `by_seed` holds what they stand on. Quality adds `quality_change_bits_per_byte` (mean paired difference) and its
    standard error (null below two pairs).
    """
    pairs = paired(rows)
    seeds = pairs["seed"].tolist()
    values = {name: pairs[name].astype(float).tolist() for metric in METRICS for name in (metric, f"{metric}_baseline")}
    groups = pairs.groupby(KEYS, dropna=False).indices
    found = [
        {
            **dict(zip(KEYS, key, strict=True)),
            **_compare({name: [column[place] for place in places] for name, column in values.items()}),
            BY_SEED: _by_seed(values, places, seeds),
        }
        for key, places in groups.items()
    ]
    table = pd.DataFrame(found, columns=[*KEYS, *_columns(), BY_SEED])
    return table.astype(dict.fromkeys(_columns(), float))


def with_ratios(entries: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Entries with their ratios; entries without a baseline run of the same seed have nulls."""
    joined = entries.merge(ratios_of(rows), on=KEYS, how="left", validate="1:1")
    joined["pairs"] = joined["pairs"].fillna(0).astype(int)
    joined[BY_SEED] = [found if isinstance(found, dict) else {} for found in joined[BY_SEED]]
    return joined


def _columns() -> list[str]:
    each = [name(metric) for metric in METRICS for name in (ratio_column, low_column, high_column)]
    return [*each, "pairs", "quality_change_bits_per_byte", "quality_change_standard_error_bits_per_byte"]


def _compare(values: dict[str, list[float]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {"pairs": len(values[QUALITY])}
    for metric in METRICS:
        both = zip(values[metric], values[f"{metric}_baseline"], strict=True)
        logarithms = [math.log(own / base) for own, base in both if own > 0 and base > 0]
        if logarithms:
            interval = ratio_interval(logarithms)
            found |= {ratio_column(metric): interval.center, low_column(metric): interval.low}
            found[high_column(metric)] = interval.high
    return found | _quality_change(values[QUALITY], values[f"{QUALITY}_baseline"])


def _by_seed(
    values: dict[str, list[float]], places: Iterable[int], seeds: list[float]
) -> dict[str, dict[float, float]]:
    found: dict[str, dict[float, float]] = {metric: {} for metric in METRICS}
    for metric, logarithms in found.items():
        for place in places:
            own, base = values[metric][place], values[f"{metric}_baseline"][place]
            if metric == QUALITY and not math.isnan(own - base):
                logarithms[seeds[place]] = own - base
            elif metric != QUALITY and own > 0 and base > 0:
                logarithms[seeds[place]] = math.log(own / base)
    return found


def _quality_change(own: list[float], base: list[float]) -> dict[str, float | None]:
    change = [a - b for a, b in zip(own, base, strict=True) if not math.isnan(a - b)]
    if not change:
        return {}
    error = standard_error(change) if len(change) > 1 else math.nan
    return {
        "quality_change_bits_per_byte": mean_interval(change).center,
        "quality_change_standard_error_bits_per_byte": error,
    }
