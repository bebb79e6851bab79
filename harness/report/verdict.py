"""What to use, in a sentence or two for each board, and only as far as its runs bear it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from harness.report.boards import Board
from harness.report.findings import CHEAPEST, FASTEST, LEANEST, Finding, Question, answer, best_quality
from harness.report.metrics import ratio_column
from harness.report.wording import plural
from harness.stats.separation import ASSUMED_SCATTER, MEASURED_FROM


@dataclass(frozen=True)
class Verdict:
    """All lines of one board, and what stands behind them."""

    board: Board
    findings: list[Finding]
    basis: str


def verdict_of(board: Board) -> Verdict:
    """The verdict of one board; without a baseline it only says so."""
    if board.baseline is None:
        why = "No comparable row of the technique `none` was measured here, so there is nothing to compare with."
        return Verdict(board, [], why)
    asked = [question for question in (FASTEST, LEANEST, CHEAPEST) if _known(board, question)]
    return Verdict(board, [*(answer(board, question) for question in asked), *best_quality(board)], basis_of(board))


def keeps_phrase(board: Board) -> str:
    """How questions are qualified: quality counts only where it was measured."""
    return "keeping quality" if board.quality_known else "(quality was not measured)"


def basis_of(board: Board) -> str:
    """How many runs stand behind a board's numbers, and what that allows."""
    pairs = [entry["pairs"] for entry in board.ranked]
    least, most = min(pairs), max(pairs)
    runs = plural(most, "run") if least == most else f"{least} to {most} runs"
    if most <= 1:
        runs = "1 run each: no interval between processes"
    else:
        runs += " each, paired by seed; intervals are 95% (Student's t on logarithms)"
    if least < MEASURED_FROM:
        few = f"A difference counts only beyond what processes that scatter by {ASSUMED_SCATTER:.0%}, or as much as the"
        return f"{runs}. {few} steps of a run, may show by chance among all pairs here; run.repeats=5 measures that."
    return f"{runs}. A difference counts where a paired t test tells it at 5% over all pairs here (Holm)."


def _known(board: Board, question: Question) -> bool:
    base = board.baseline
    return base is not None and not pd.isna(base[ratio_column(question.metric)])
