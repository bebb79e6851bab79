"""The leaderboard's cells as plain data, so that the page and the Markdown file show the same."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harness.report.entries import BASELINE
from harness.report.metrics import (
    LATENCY,
    QUALITY,
    high_column,
    low_column,
    ratio_column,
)
from harness.report.wording import DASH, amount, missing, percent, plural, ratio


@dataclass(frozen=True)
class Cell:
    """What is read first, the small print under it, the number to sort by, and why it is empty where it is."""

    main: str
    sub: str = ""
    value: float | None = None
    title: str = ""
    tone: str = ""


def runs_of(entry: dict) -> str:
    """How many runs stand behind an entry, and how many were tried where some failed."""
    text = plural(entry["runs"], "run")
    return text if entry["runs"] == entry["attempts"] else f"{text} ({entry['attempts']} attempted)"


def reason_for(entry: dict, metric: str) -> str:
    """Why `metric` is null in the entry's newest row."""
    return str(_reasons(entry["reasons_json"] or "{}").get(metric, "the row does not hold this number"))


@lru_cache(4096)
def _reasons(text: str) -> dict[str, str]:
    return json.loads(text)


def rank_cell(entry: dict) -> Cell:
    """`1`, or `2-4` where it may be any of these."""
    best, worst = entry["rank_best"], entry["rank_worst"]
    if missing(best):
        why = "; ".join(entry["flags"]) if entry["flags"] else "no baseline run of the same seed to compare with"
        return Cell(DASH, value=math.inf, title=f"not ranked: {why}")
    text = f"{best:.0f}" if best == worst else f"{best:.0f}\N{EN DASH}{worst:.0f}"
    return Cell(text, value=best + worst / 1e4)


def speed_cell(entry: dict) -> Cell:
    """Speed over the baseline's, with its interval where two runs or more stand behind it."""
    value = entry[ratio_column(LATENCY)]
    if missing(value):
        return Cell(DASH, title="no comparable baseline run of the same seed")
    if entry["technique"] == BASELINE:
        return Cell(ratio(1 / value), "", 1 / value)
    low, high = entry[high_column(LATENCY)], entry[low_column(LATENCY)]
    if missing(low):
        title = "one run: no interval between processes; the dashed line is the spread of steps within the run"
        return Cell(ratio(1 / value), "no interval", 1 / value, title)
    return Cell(
        ratio(1 / value), f"{1 / low:.2f}\N{EN DASH}{1 / high:.2f}", 1 / value, "95% interval of the mean ratio"
    )


def step_cell(entry: dict) -> Cell:
    """Median step time; under it the spread within a run, which is not an interval of the median."""
    value, spread = entry[LATENCY], entry["latency_spread_ratio"]
    if missing(value):
        return Cell(DASH, title=reason_for(entry, LATENCY))
    title = "under it: interquartile range of the steps within a run over their median; not a confidence interval"
    return Cell(amount(value, LATENCY), "" if missing(spread) else f"spread {percent(spread, False)}", value, title)


def quality_cell(entry: dict) -> Cell:
    """Bits per byte with the standard error over held-out windows, and the change from the baseline."""
    value, error, change = (
        entry[QUALITY],
        entry["quality_standard_error_bits_per_byte"],
        entry["quality_change_bits_per_byte"],
    )
    if missing(value):
        return Cell(DASH, title=reason_for(entry, QUALITY))
    main = amount(value, QUALITY) + ("" if missing(error) else f" \N{PLUS-MINUS SIGN}{error:.3f}")
    title = "\N{PLUS-MINUS SIGN}: standard error over held-out windows; under it: change from the baseline"
    if missing(change):
        return Cell(main, "", value, title)
    kept = entry["keeps_quality"]
    word = "kept" if kept else "lost"
    return Cell(main, f"{percent(change / (value - change))} {word}", value, title, "" if kept else "bad")


def converged_cell(entry: dict) -> Cell:
    """Yes, or no where the window ended at its time limit."""
    value = entry["converged"]
    if missing(value):
        return Cell(DASH, title="the row does not say")
    if value:
        return Cell("yes", value=1.0)
    return Cell("no", value=0.0, title="; ".join(entry["flags"]) or "the window ended at its time limit", tone="warn")


def metric_cell(entry: dict, name: str) -> Cell:
    """A number of the column `name`, and under it its ratio to the baseline."""
    value: Any = entry[name]
    if missing(value):
        return Cell(DASH, title=reason_for(entry, name))
    low, high = entry[low_column(name)], entry[high_column(name)]
    title = "" if missing(low) else f"95% interval of the ratio: {ratio(low)} to {ratio(high)}"
    share = entry[ratio_column(name)]
    return Cell(amount(value, name), "" if missing(share) else ratio(share), value, title)
