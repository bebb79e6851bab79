"""Everything a report says, derived once from the rows and shown by the page and the Markdown file alike."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from harness.report.against import Agreement
from harness.report.boards import Board, boards_of
from harness.report.entries import entries_of
from harness.report.failures import matrix_of, reasons_of
from harness.report.frame import newest
from harness.report.ink import Drawing
from harness.report.machine import Machine, machines_of
from harness.report.quality import with_quality
from harness.report.quiet import unquiet_lines
from harness.report.ranks import with_ranks
from harness.report.ratios import with_ratios
from harness.report.staleness import stale_rows, summary_of
from harness.report.verdict import Verdict, verdict_of


@dataclass(frozen=True)
class Contents:
    """Tables and findings of one results folder."""

    rows: pd.DataFrame
    #: Ids of rows that a newer row of the same trial has replaced.
    replaced: set[str]
    machines: list[Machine]
    boards: list[Board]
    verdicts: list[Verdict]
    matrix: pd.DataFrame
    reasons: pd.DataFrame
    stale: pd.DataFrame
    stale_lines: list[str]
    unquiet_lines: list[str]
    unreadable: list[str]
    #: By board: its figures, and a line for each figure that has no data.
    drawings: dict[str, tuple[list[Drawing], list[str]]] = field(default_factory=dict)
    #: Another results folder by name, and how its boards agree with those here.
    against: str | None = None
    agreements: list[Agreement] = field(default_factory=list)


def contents_of(rows: pd.DataFrame, unreadable: list[str]) -> Contents:
    """Derive everything but the figures from all `rows` (as `frame_of` gives them)."""
    current = newest(rows)
    entries = with_ranks(with_quality(with_ratios(entries_of(current), current)))
    boards, stale = boards_of(entries), stale_rows(current)
    return Contents(
        rows=rows,
        replaced=set(rows["row_id"]) - set(current["row_id"]),
        machines=machines_of(current),
        boards=boards,
        verdicts=[verdict_of(board) for board in boards],
        matrix=matrix_of(current),
        reasons=reasons_of(current),
        stale=stale,
        stale_lines=summary_of(stale, len(current)),
        unquiet_lines=unquiet_lines(current),
        unreadable=list(unreadable),
    )
