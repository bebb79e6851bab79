"""What to use, in a sentence or two for each board, and only as far as its runs bear it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from harness.report.boards import Board
from harness.report.entries import BASELINE
from harness.report.metrics import ENERGY, LATENCY, MEMORY, QUALITY, high_column, low_column, ratio_column
from harness.report.quality import gains_quality
from harness.report.ranks import place_of, tied
from harness.report.wording import amount, listing, percent, plural, ratio

#: Peaks of memory hardly vary between runs; below this share a difference is not worth a choice.
MEMORY_MARGIN = 0.01


@dataclass(frozen=True)
class Finding:
    """One line of a verdict: what was asked, what won (empty when nothing did), by how much, and the small print."""

    question: str
    answer: str
    figure: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """All lines of one board, and what stands behind them."""

    board: Board
    findings: list[Finding]
    basis: str


def verdict_of(board: Board) -> Verdict:
    """The verdict of one board; without a baseline it only says so."""
    base = board.baseline
    if base is None:
        why = "no comparable row of the technique `none` was measured here, so there is nothing to compare with"
        return Verdict(board, [], why)
    kept = _kept(board)
    findings = [_fastest(kept, base), _leanest(kept, base), *_cheapest(kept), *_best_quality(board)]
    return Verdict(board, [found for found in findings if found], basis_of(board))


def keeps_phrase(board: Board) -> str:
    """How questions are qualified: quality counts only where it was measured."""
    return "keeping quality" if board.ranked["keeps_quality"].notna().any() else "quality not measured"


def basis_of(board: Board) -> str:
    """How many runs stand behind a board's numbers, and what that allows."""
    least, most = int(board.ranked["pairs"].min()), int(board.ranked["pairs"].max())
    if most <= 1:
        return "1 run each: no interval between processes. Ties are judged by the spread of steps within a run."
    runs = plural(most, "run") if least == most else f"{least} to {most} runs"
    return f"{runs} each, paired by seed; intervals are 95% (Student's t on logarithms)."


def _kept(board: Board) -> pd.DataFrame:
    known = board.ranked["keeps_quality"].notna().any()
    return board.ranked[board.ranked["keeps_quality"].eq(True)] if known else board.ranked


def _fastest(kept: pd.DataFrame, base: dict) -> Finding:
    entries = kept.sort_values(ratio_column(LATENCY)).to_dict("records")
    best, question = entries[0], "Fastest"
    ties = [entry["label"] for entry in entries[1:] if tied(place_of(best), place_of(entry))]
    if best["technique"] == BASELINE or base["label"] in ties:
        return Finding(question, "", ratio(1.0), "Nothing here is separably faster than the baseline.")
    detail = f"Step {amount(best[LATENCY], LATENCY)} against {amount(base[LATENCY], LATENCY)}"
    detail += f"{_bounds(best, LATENCY, inverse=True)}."
    if ties:
        detail += f" Not separable from {listing(ties)}" + (" by one run." if best["pairs"] < 2 else ".")
    return Finding(question, best["label"], ratio(1 / best[ratio_column(LATENCY)]), detail)


def _leanest(kept: pd.DataFrame, base: dict) -> Finding | None:
    return _lowest(kept, base, MEMORY, "Least memory", lambda value: f"Peak of tensors {value}")


def _cheapest(kept: pd.DataFrame) -> list[Finding]:
    base = kept[kept["technique"] == BASELINE].to_dict("records")
    found = _lowest(kept, base[0], ENERGY, "Least energy", lambda v: f"GPU counter, a token: {v}") if base else None
    return [found] if found else []


def _lowest(
    kept: pd.DataFrame, base: dict, metric: str, question: str, describe: Callable[[str], str]
) -> Finding | None:
    column = ratio_column(metric)
    entries = kept[kept[column].notna()].sort_values(column).to_dict("records")
    if not entries:
        return None
    best = entries[0]
    ties = [e["label"] for e in entries[1:] if _near(best, e, metric)]
    if best["technique"] == BASELINE or base["label"] in ties:
        return Finding(question, "", ratio(1.0), "Nothing here needs separably less than the baseline.")
    detail = describe(f"{amount(best[metric], metric)} against {amount(base[metric], metric)}")
    detail += f"{_bounds(best, metric)}." + (f" Not separable from {listing(ties)}." if ties else "")
    return Finding(question, best["label"], ratio(best[column]), detail)


def _near(a: dict, b: dict, metric: str) -> bool:
    if not pd.isna(a[high_column(metric)]) and not pd.isna(b[low_column(metric)]):
        return bool(b[low_column(metric)] <= a[high_column(metric)])
    return bool(b[ratio_column(metric)] <= a[ratio_column(metric)] * (1 + MEMORY_MARGIN))


def _best_quality(board: Board) -> list[Finding]:
    entries = [e for e in board.ranked.sort_values(QUALITY).to_dict("records") if gains_quality(e)]
    if not entries:
        return []
    best = entries[0]
    change = best["quality_change_bits_per_byte"] / (best[QUALITY] - best["quality_change_bits_per_byte"])
    detail = f"{amount(best[QUALITY], QUALITY)} bits/byte, at {ratio(1 / best[ratio_column(LATENCY)])} the speed."
    return [Finding("Best quality", best["label"], percent(change), detail)]


def _bounds(entry: dict, metric: str, inverse: bool = False) -> str:
    low, high = entry[low_column(metric)], entry[high_column(metric)]
    if pd.isna(low):
        return ""
    low, high = (1 / high, 1 / low) if inverse else (low, high)
    return f"; 95% interval {ratio(low)} to {ratio(high)}"
