"""Which columns a board has, and why it lacks the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.report.boards import Board
from harness.report.cells import (
    Cell,
    converged_cell,
    metric_cell,
    quality_cell,
    rank_cell,
    reason_for,
    speed_cell,
    step_cell,
)
from harness.report.metrics import ESTIMATE, LATENCY, METRICS, QUALITY


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


def _metric_column(name: str, board: Board) -> Column:
    shown, heading = METRICS[name], METRICS[name].heading
    if name == "throughput_tokens_per_second":
        heading = f"{board.token_kind.capitalize()} tokens"
    if name.endswith("_per_token_joules") or name == ESTIMATE:
        heading = "Energy / token"
    return Column(name, heading, shown.meaning, shown.source, lambda entry: metric_cell(entry, name))
