"""Two variants side by side: fresh processes in random AB/BA pairs, the ratio with its interval, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import to_trials
from harness.errors import UserError
from harness.settings import Settings
from harness.single import composed
from harness.stats.pairs import Verdict, judge
from harness.store import Results, read_rows
from harness.sweep import run_sweep
from harness.trial import Trial

#: Columns to compare where both rows have them, with the word for "the first has less".
COLUMNS = {
    "latency_p50_seconds": ("faster", "slower"),
    "peak_allocated_bytes": ("smaller", "larger"),
    "gpu_energy_per_token_joules": ("thriftier", "thirstier"),
    "quality_bits_per_byte": ("better", "worse"),
}


@dataclass(frozen=True)
class Comparison:
    """What one column says, pair by pair."""

    column: str
    verdict: Verdict
    #: (value of A, value of B, order) of each pair that counts.
    pairs: list[tuple[float, float, str]]


def compare(overrides: Sequence[str], pairs: int, same_within: float) -> tuple[Trial, Trial, list[Comparison], int]:
    """Measure what is missing of `pairs` pairs and compare A, the first value of the one swept key, with B.

    Returns a trial of each, the comparisons, and how many pairs were left out because their two trials did not run one
    after the other (a sweep was interrupted between them). UserError unless exactly one key has exactly two values.
    """
    first, second = variants(overrides)
    settings, trials = Settings(), []
    for variant in (first, second):
        found, settings = to_trials(composed([*variant, f"run.repeats={pairs}"]))
        trials.append(found)
    if settings.order != "randomized":
        raise UserError(
            "compare runs its pairs in random order only: all of A and then all of B mistakes drift for effect"
        )
    if trials[0][0].config_id == trials[1][0].config_id:
        raise UserError("both variants measure the same thing; change one")
    run_sweep([*trials[0], *trials[1]], settings)
    rows = newest_rows(Results(Path(settings.results)), [*trials[0], *trials[1]])
    matched, apart = match(rows, trials[0], trials[1])
    found = [judged for column in COLUMNS if (judged := _judged(column, matched, same_within))]
    return trials[0][0], trials[1][0], found, apart


def variants(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of A and of B; UserError unless exactly one key has exactly two values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = [item for item in parsed if item.is_sweep_override()]
    if len(swept) != 1 or len(choices := list(swept[0].sweep_string_iterator())) != 2:
        raise UserError("compare needs exactly one key with exactly two values, such as technique=none,lora")
    fixed = [item.input_line or "" for item in parsed if item is not swept[0]]
    key = swept[0].get_key_element()
    return [*fixed, f"{key}={choices[0]}"], [*fixed, f"{key}={choices[1]}"]


def newest_rows(results: Results, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """The newest row of each trial, by trial id."""
    wanted = {trial.id for trial in trials}
    rows = [row for row in read_rows(results).table.to_pylist() if row["trial_id"] in wanted]
    return {row["trial_id"]: row for row in sorted(rows, key=lambda row: row["started_at"])}


def match(rows: dict[str, dict[str, Any]], first: Sequence[Trial], second: Sequence[Trial]) -> tuple[list[Any], int]:
    """Pairs of rows that ran one after the other, and how many did not."""
    matched, apart = [], 0
    for a, b in zip(first, second, strict=True):
        left, right = rows.get(a.id), rows.get(b.id)
        if left is None or right is None or left["status"] != "ok" or right["status"] != "ok":
            continue
        if left["block"] == right["block"] and abs(left["order_index"] - right["order_index"]) == 1:
            matched.append((left, right))
        else:
            apart += 1
    return matched, apart


def _judged(
    column: str, matched: Sequence[tuple[dict[str, Any], dict[str, Any]]], same_within: float
) -> Comparison | None:
    pairs = [
        (float(left[column]), float(right[column]), "AB" if left["order_index"] < right["order_index"] else "BA")
        for left, right in matched
        if left.get(column) and right.get(column)
    ]
    if not pairs:
        return None
    return Comparison(column, judge([a / b for a, b, _ in pairs], same_within, COLUMNS[column]), pairs)


def show(first: Trial, second: Trial, comparisons: Sequence[Comparison], apart: int) -> str:
    """The comparison for people: a line for each column, then the pairs of the first."""
    a, b = _names(first, second)
    lines = [f"A: {a}", f"B: {b}", f"on {first.model.label}, {first.workload.label}, {first.device}", ""]
    for item in comparisons:
        low, high = item.verdict.low, item.verdict.high
        interval = "" if low is None or high is None else f"  95% interval {low:.4f} to {high:.4f}"
        lines.append(
            f"{item.column:30} A/B = {item.verdict.ratio:.4f}{interval}  n={len(item.pairs)}: {item.verdict.text}"
        )
    if comparisons:
        lines += ["", f"pairs of {comparisons[0].column}:"]
        lines += [f"  {order}  A {x:.6g}  B {y:.6g}  A/B {x / y:.4f}" for x, y, order in comparisons[0].pairs]
    if apart:
        lines.append(f"{apart} pair(s) left out: their two trials did not run one after the other")
    return "\n".join(lines if comparisons else [*lines, "no pair has two measured rows; see the rows' reasons"])


def _names(first: Trial, second: Trial) -> tuple[str, str]:
    for attribute in ("technique_label", "label"):
        a, b = getattr(first, attribute), getattr(second, attribute)
        if a != b:
            return a, b
    return first.label, second.label
