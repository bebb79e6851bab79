"""What the literature claims, held against the rows: confirmed, refuted, or why neither."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from harness.report.crossovers import value_at
from harness.report.entries import BASELINE, disqualifying
from harness.report.frame import BOARD
from harness.report.metrics import ENERGY, QUALITY
from harness.report.ranks import ASSUMED_MEMORY_SCATTER, MEMORY_MARGIN, scatter_of
from harness.report.wording import missing, number
from harness.stats.crossover import Bounds, bounds
from harness.stats.intervals import LEVEL
from harness.stats.separation import MEASURED_FROM

Verdict = Literal["confirmed", "refuted", "cannot tell", "untestable"]

#: Sizes that are to be equal may differ by this share.
SIZE_MARGIN = 0.01
_ERROR = "quality_standard_error_bits_per_byte"
_POWER = "gpu_power_mean_watts"


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper as a comparison of two techniques, A over B, in one number."""

    id: str
    source: str
    words: str
    a: str = ""
    b: str = ""
    #: Any of these workloads.
    workloads: list[str] = field(default_factory=list)
    #: A column of the rows.
    metric: str = ""
    #: A has less or more of it than B, or the two numbers between which A/B lies (null: no bound).
    expect: Literal["less", "more"] | list[float | None] = "less"
    #: Columns in which A and B must agree to 1%: sizes or budgets.
    equal: list[str] = field(default_factory=list)
    #: Keys of a trial, as on the command line, with the least and the greatest value (null: no bound).
    where: dict[str, list[float | None]] = field(default_factory=dict)
    #: In what our comparison differs from the paper's.
    caveat: str = ""
    #: Why no row of this harness can tell.
    untestable: str = ""

    def __post_init__(self) -> None:
        if not self.untestable and not all((self.a, self.b, self.workloads, self.metric)):
            raise ValueError("give a, b, workloads and metric, or say in `untestable` why it cannot be tested")
        ranges = [*self.where.values(), *([] if isinstance(self.expect, str) else [self.expect])]
        if any(len(both) != 2 for both in ranges):
            raise ValueError("a range has two ends, such as [0.5, 1] or [4096, null]")


@dataclass(frozen=True)
class Evidence:
    """What one board says of a claim; without numbers only a reason."""

    place: str
    verdict: Verdict
    reason: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 0


@dataclass(frozen=True)
class Judgement:
    """A claim and what all boards together say."""

    claim: Claim
    verdict: Verdict
    reason: str
    evidence: list[Evidence]

    @property
    def shown(self) -> Evidence | None:
        """The evidence that stands for all: the first with the common verdict that has numbers."""
        able = [item for item in self.evidence if item.ratio is not None]
        return next((item for item in able if item.verdict == self.verdict), able[0] if able else None)


def judged(claim: Claim, rows: pd.DataFrame) -> Judgement:
    """Hold a claim against the newest rows (as `frame_of` and `newest` give them).

    A and B are compared within a board, run by run of one seed, by the rule of the report's verdicts: Student's t on
    logarithms from three runs on; below, processes are assumed to scatter. Boards that disagree decide nothing.
    """
    if claim.untestable:
        return Judgement(claim, "untestable", claim.untestable, [])
    trials = [json.loads(text) if text else {} for text in rows["trial_json"]]
    fits = [_fits(claim, trial) for trial in trials]
    able = [trial for trial, fit in zip(trials, fits, strict=True) if fit]
    sides, matches = [_side(claim, trial) for trial in able], [trial.get("match", "none") for trial in able]
    scope = rows[fits].assign(side=sides, matched=matches)
    found = [item for _, board in scope.groupby(BOARD, dropna=False) for item in _evidence(claim, board)]
    decided = [item for item in found if item.verdict != "cannot tell"]
    if len({item.verdict for item in decided}) == 1:
        return Judgement(claim, decided[0].verdict, decided[0].reason, found)
    if decided:
        places = "; ".join(f"{item.verdict}: {item.place}" for item in decided)
        return Judgement(claim, "cannot tell", f"boards or variants disagree ({places})", found)
    return Judgement(claim, "cannot tell", found[0].reason if found else _absence(claim, scope), found)


def _fits(claim: Claim, trial: Mapping[str, Any]) -> bool:
    if not trial or _side(claim, trial) is None:
        return False
    workload = trial["workload"]
    if not {workload["name"], workload["target"].split(".")[-2]} & set(claim.workloads):
        return False
    return all(_within(value_at(dict(trial), key), ends) for key, ends in claim.where.items())


def _side(claim: Claim, trial: Mapping[str, Any]) -> str | None:
    """Which of the claim's techniques a trial is of; a stack is of neither."""
    names = [part["name"] for part in trial["techniques"]]
    return names[0] if len(names) == 1 and names[0] in (claim.a, claim.b) else None


def _within(value: Any, ends: Sequence[float | None]) -> bool:
    low, high = ends
    return isinstance(value, int | float) and (low is None or value >= low) and (high is None or value <= high)


def _evidence(claim: Claim, board: pd.DataFrame) -> Iterator[Evidence]:
    """Every variant of A against every variant of B on one board; nothing where one of them has no good row.

    What was matched with the baseline stands beside what was matched in the same way, and beside the baseline itself.
    """
    clean = board["flags"].map(lambda flags: not disqualifying(flags)).astype(bool)
    good = board[(board["status"] == "ok") & clean]
    sides = {side: dict(iter(good[good["side"] == side].groupby("config_id"))) for side in (claim.a, claim.b)}
    for own in sides[claim.a].values():
        for other in sides[claim.b].values():
            if own["matched"].iloc[0] != other["matched"].iloc[0] and BASELINE not in (claim.a, claim.b):
                continue
            place = ", ".join(map(str, (own["technique"].iloc[0], *own[BOARD[:3]].iloc[0])))
            yield _compared(claim, place, own.to_dict("records"), other.to_dict("records"))


def _compared(claim: Claim, place: str, own: list[dict], other: list[dict]) -> Evidence:
    unequal = next(filter(None, (_unequal(column, own, other) for column in claim.equal)), None)
    if unequal:
        return Evidence(place, "cannot tell", unequal)
    if claim.metric not in own[0]:
        return Evidence(place, "cannot tell", f"the rows have no column {claim.metric}")
    by_seed = {row["seed"]: row for row in other}
    pairs = [(row, by_seed[row["seed"]]) for row in own if row["seed"] in by_seed]
    if not pairs:
        return Evidence(place, "cannot tell", f"{claim.a} and {claim.b} have no seed in common")
    known = [(x, y) for x, y in pairs if _positive(x[claim.metric]) and _positive(y[claim.metric])]
    if not known:
        return Evidence(place, "cannot tell", _why_null(claim.metric, pairs[0]))
    logarithms = [math.log(x[claim.metric] / y[claim.metric]) for x, y in known]
    scatter = max(_scatter(row, claim.metric, len(known)) for pair in known for row in pair)
    if math.isinf(scatter) and len(known) < MEASURED_FROM:
        return Evidence(place, "cannot tell", f"fewer than {MEASURED_FROM} runs, and no error of their quality")
    found = bounds(logarithms, LEVEL, math.sqrt(2) * scatter)
    verdict, reason = _verdict(claim, found)
    edges = [math.exp(edge) for edge in (found.center, found.low, found.high)]
    return Evidence(place, verdict, reason, *edges, runs=len(known))


def _verdict(claim: Claim, found: Bounds) -> tuple[Verdict, str]:
    if isinstance(claim.expect, str):
        sign = -1 if claim.expect == "less" else 1
        margin = math.log1p(MEMORY_MARGIN) if claim.metric.endswith("_bytes") else 0.0
        if -margin <= found.low and found.high <= margin:
            return "refuted", (f"equal within {MEMORY_MARGIN:.0%}" if margin else "equal")
        if found.sign:
            return ("confirmed" if found.sign == sign else "refuted"), ""
        return "cannot tell", "the interval holds 1"
    low, high = (edge if edge is None else math.log(edge) if edge > 0 else -math.inf for edge in claim.expect)
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if low <= found.low and found.high <= high:
        return "confirmed", ""
    if found.high < low or found.low > high:
        return "refuted", ""
    return "cannot tell", "the interval is partly in what is claimed"


def _scatter(row: dict, metric: str, runs: int) -> float:
    """The standard deviation between processes to assume below three runs, as the report does."""
    if metric.endswith(("_count", "_flops")):
        return 0.0  # counted, not timed
    if metric == QUALITY:
        # Every run sees the same windows, so their error does not shrink with the number of runs.
        error = row.get(_ERROR)
        return math.inf if missing(error) else error * math.sqrt(runs) / row[metric]  # type: ignore[operator]
    return ASSUMED_MEMORY_SCATTER if metric.endswith("_bytes") else scatter_of(row, metric)


def _positive(value: Any) -> bool:
    return not missing(value) and value > 0


def _unequal(column: str, own: list[dict], other: list[dict]) -> str | None:
    values = [[row[column] for row in side if not missing(row.get(column))] for side in (own, other)]
    if not all(values):
        return f"sizes cannot be compared: the rows have no {column}"
    first, second = (sorted(side)[len(side) // 2] for side in values)
    if abs(first - second) <= SIZE_MARGIN * max(first, second):
        return None
    return f"sizes are not matched: {column} {number(first)} against {number(second)}"


def _why_null(metric: str, pair: tuple[dict, dict]) -> str:
    row = next((row for row in pair if not _positive(row[metric])), pair[0])
    why = json.loads(row["reasons_json"] or "{}").get(metric, "no reason was given")
    power = "; power is there, but power is not energy" if metric == ENERGY and _positive(row.get(_POWER)) else ""
    return f"no {metric} of {row['technique']}: {why}{power}"


def _absence(claim: Claim, scope: pd.DataFrame) -> str:
    """Why no board has a good row of both."""
    where = "".join(f", {key.rpartition('.')[2]} {_range(ends)}" for key, ends in claim.where.items())
    for side in (claim.a, claim.b):
        rows = scope[scope["side"] == side]
        if rows.empty:
            return f"no rows of {side} on {' or '.join(claim.workloads)}{where}"
        failed = rows[rows["status"] != "ok"]
        if len(failed) == len(rows):
            return f"{side} is {failed['status'].iloc[-1]}: {failed['reason'].iloc[-1]}"
        flagged = [flag for flags in rows["flags"] for flag in disqualifying(flags)]
        if flagged and all(disqualifying(flags) for flags in rows[rows["status"] == "ok"]["flags"]):
            return f"every row of {side} is flagged: {flagged[0]}"
    return f"{claim.a} and {claim.b} were not measured side by side: one model, machine and setting"


def _range(ends: Sequence[float | None]) -> str:
    low, high = ends
    if low is None:
        return f"up to {high:g}"
    return f"from {low:g}" + ("" if high is None else f" to {high:g}")
