"""The leaderboard's cells as plain data, so that the page and the Markdown file show the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harness.report.boards import Board
from harness.report.metrics import (
    ESTIMATE,
    LATENCY,
    METRICS,
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


@dataclass(frozen=True)
class Column:
    """A column of one board: `kind` is `measured`, `estimated` or `fact`."""

    key: str
    heading: str
    meaning: str
    kind: str
    cell: Callable[[dict], Cell]


#: Shown wherever a row has numbers; the others only on boards where some entry has one.
_ALWAYS = ("throughput_tokens_per_second", "peak_allocated_bytes", "weights_bytes")
_BETWEEN = [name for name in METRICS if name not in (LATENCY, ESTIMATE, QUALITY)]


def columns_of(board: Board) -> list[Column]:
    """The columns of a board; the estimated one comes last and stands apart."""
    rank = Column("rank", "Rank", "by step time; a range where runs cannot tell entries apart", "fact", rank_cell)
    speed = Column("speed", "Speed", "the baseline's median step time over this one's", "measured", speed_cell)
    step = Column(LATENCY, "Step time", METRICS[LATENCY].meaning, "measured", step_cell)
    found = [rank, speed, step]
    found += [_metric_column(name, board) for name in _BETWEEN if name in _ALWAYS or board.measured[name].notna().any()]
    found.append(Column(QUALITY, "Bits / byte", METRICS[QUALITY].meaning, "measured", quality_cell))
    found.append(Column("converged", "Settled", "whether the window met its stopping rule", "fact", converged_cell))
    if board.measured[ESTIMATE].notna().any():
        found.append(_metric_column(ESTIMATE, board))
    return found


def left_out(board: Board) -> list[str]:
    """`KV cache (this workload holds none)` for each column that no entry of the board has a number for."""
    found = []
    for name in (*_BETWEEN, QUALITY):
        if name not in _ALWAYS and not board.measured[name].notna().any() and len(board.measured):
            reasons = {reason_for(entry, name) for entry in board.records}
            found.append(f"{METRICS[name].heading} ({'; '.join(sorted(reasons))})")
    return found


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
    if missing(best) or str(best) == "<NA>":
        why = "; ".join(entry["flags"]) if entry["flags"] else "no baseline run of the same seed to compare with"
        return Cell(DASH, value=math.inf, title=f"not ranked: {why}")
    text = f"{best}" if best == worst else f"{best}\N{EN DASH}{worst}"
    return Cell(text, value=float(best) + float(worst) / 1e4)


def speed_cell(entry: dict) -> Cell:
    """Speed over the baseline's, with its interval where two runs or more stand behind it."""
    value = entry[ratio_column(LATENCY)]
    if missing(value):
        return Cell(DASH, title="no comparable baseline run of the same seed")
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


def _metric_column(name: str, board: Board) -> Column:
    shown, heading = METRICS[name], METRICS[name].heading
    if name == "throughput_tokens_per_second":
        heading = f"{board.token_kind.capitalize()} tokens"
    if name.endswith("_per_token_joules") or name == ESTIMATE:
        heading = "Energy / token"
    return Column(name, heading, shown.meaning, shown.source, lambda entry: _metric_cell(entry, name))


def _metric_cell(entry: dict, name: str) -> Cell:
    value: Any = entry[name]
    if missing(value):
        return Cell(DASH, title=reason_for(entry, name))
    low, high = entry[low_column(name)], entry[high_column(name)]
    title = "" if missing(low) else f"95% interval of the ratio: {ratio(low)} to {ratio(high)}"
    share = entry[ratio_column(name)]
    return Cell(amount(value, name), "" if missing(share) else ratio(share), value, title)
