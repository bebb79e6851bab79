"""Whether another results folder ranks the same things alike, and whether it bears out what is claimed here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.report.boards import Board
from harness.report.metrics import ENERGY, LATENCY, MEMORY, METRICS, ratio_column
from harness.report.wording import DASH, missing, percent, plural, ratio
from harness.stats.agreement import kendall_tau

#: What a report claims differences of.
CLAIMED = (LATENCY, MEMORY, ENERGY)
HEADINGS = ("Board", "Ranked in both", "Tau of step times", "Tau of ranks", "Claims kept")
ABOUT = (
    "Kendall's tau-b of the two rankings (1: the same order, -1: the reverse), by the measured step times and by the "
    "ranks that the runs bear, ties included. A claim is a difference in step time, memory or energy that the runs "
    "here tell apart; it is kept where the other folder's ratio points the same way."
)


@dataclass(frozen=True)
class Agreement:
    """One board in both folders. A tau is None where one of the rankings ties everything."""

    title: str
    entries: int
    tau_of_times: float | None
    tau_of_ranks: float | None
    claims: int
    #: A line for each claim of this folder that the other one contradicts.
    flipped: list[str]

    @property
    def cells(self) -> tuple[str, ...]:
        """As `HEADINGS` has them."""
        kept = self.claims - len(self.flipped)
        share = f"{kept} of {self.claims} ({percent(kept / self.claims, False)})" if self.claims else "no claim"
        return self.title, str(self.entries), _tau(self.tau_of_times), _tau(self.tau_of_ranks), share


def agreements_of(boards: Sequence[Board], others: Sequence[Board]) -> list[Agreement]:
    """An agreement for each board with two ranked entries or more in both; boards and entries go by their labels."""
    there = {board.key: {entry["label"]: entry for entry in board.ranked} for board in others}
    found = []
    for board in boards:
        both = [(entry, there[board.key][entry["label"]]) for entry in board.ranked if _in(there, board, entry)]
        if len(both) > 1:
            found.append(_agreement(board, both))
    return found


def summary_of(agreements: Sequence[Agreement], name: str) -> str:
    """One line over all boards."""
    if not agreements:
        return f"No board has two entries that are ranked both here and in {name}: nothing can be compared."
    claims = sum(item.claims for item in agreements)
    lost = sum(len(item.flipped) for item in agreements)
    share = f": {percent((claims - lost) / claims, False)}" if claims else ""
    return f"{plural(len(agreements), 'board')} in both; {claims - lost} of {plural(claims, 'claim')} kept{share}."


def _in(there: dict[tuple[str, ...], dict[str, dict]], board: Board, entry: dict) -> bool:
    return entry["label"] in there.get(board.key, {})


def _agreement(board: Board, both: list[tuple[dict, dict]]) -> Agreement:
    times = [[entry[ratio_column(LATENCY)] for entry in side] for side in zip(*both, strict=True)]
    ranks = [[entry["rank_best"] + entry["rank_worst"] for entry in side] for side in zip(*both, strict=True)]
    claims = list(_claims(board, both))
    flipped = [line for line in claims if line]
    return Agreement(board.title, len(both), kendall_tau(*times), kendall_tau(*ranks), len(claims), flipped)


def _claims(board: Board, both: list[tuple[dict, dict]]) -> Iterator[str]:
    """Empty for each claim that is kept, else what became of it."""
    for (a, a_there), (b, b_there) in itertools.combinations(both, 2):
        for metric in CLAIMED:
            column = ratio_column(metric)
            sign = board.sign(a, b, metric)
            if not sign or missing(a_there[column]) or missing(b_there[column]):
                continue
            here, there = a[column] / b[column], a_there[column] / b_there[column]
            kept = (here - 1) * (there - 1) > 0
            what = f"{METRICS[metric].heading.lower()} of {a['label']} over {b['label']}"
            yield "" if kept else f"{what}: {ratio(here)} here, {ratio(there)} there"


def _tau(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"
