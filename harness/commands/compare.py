"""Two variants side by side: fresh processes in random AB/BA pairs, the ratio with its interval, and a verdict."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.machine.environment import device_name
from harness.plan.config import to_trials
from harness.plan.resume import FAILED, changes_since
from harness.plan.settings import Settings
from harness.plan.single import composed
from harness.plan.sweep import run_sweep
from harness.rows.store import Results, read_rows
from harness.stats.pairs import Column, Verdict, judge_columns
from harness.trial import Trial

#: Columns to compare where both rows have them, with the word for "the first has less".
COLUMNS = {
    "latency_p50_seconds": ("faster", "slower"),
    "peak_allocated_bytes": ("smaller", "larger"),
    "gpu_energy_per_token_joules": ("thriftier", "thirstier"),
    "quality_bits_per_byte": ("better", "worse"),
}
#: What a pair's rows must tell beside the columns to compare.
SOFTWARE = ("versions_json", "code_revision")
READ = ("trial_id", "status", "started_at", "trial_seconds", "order_index", "sweep", "device_name", "flags", *SOFTWARE)

Pair = tuple[Trial, Trial]
RowPair = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """What one column says, pair by pair."""

    column: str
    verdict: Verdict
    #: (value of A, value of B, order) of each pair that counts.
    pairs: list[tuple[float, float, str]]


def compare(overrides: Sequence[str], pairs: int, same_within: float) -> tuple[Trial, Trial, list[Comparison], int]:
    """Measure what is missing of `pairs` pairs and compare A, the first value of the one swept key, with B.

    Returns a trial of each, the comparisons, and how many pairs were left out because a trial failed or is invalid.
    UserError unless exactly one key has exactly two values.
    """
    planned, settings = plan_pairs(overrides, pairs)
    measured = whole(measure_pairs(planned, settings, "compare"))
    return *planned[0], judged(measured, same_within), len(planned) - len(measured)


def plan_pairs(overrides: Sequence[str], pairs: int) -> tuple[list[Pair], Settings]:
    """Pair i is both variants with the seed of repeat i. UserError unless one key has two values that differ."""
    sides, settings = [], Settings()
    for variant in variants(overrides):
        trials, settings = to_trials(composed([*variant, f"run.repeats={pairs}"]))
        sides.append(trials)
    if settings.order != "randomized":
        raise UserError(
            "compare runs its pairs in random order only: all of A and then all of B mistakes drift for effect"
        )
    if sides[0][0].config_id == sides[1][0].config_id:
        raise UserError("both variants measure the same thing; change one, or use `harness aa` to test the harness")
    return list(zip(*sides, strict=True)), settings


def variants(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of A and of B; UserError unless exactly one key has exactly two values."""
    parsed = parse(overrides)
    swept = [item for item in parsed if item.is_sweep_override()]
    if len(swept) != 1 or len(choices := list(swept[0].sweep_string_iterator())) != 2:
        raise UserError("compare needs exactly one key with exactly two values, such as technique=none,lora")
    fixed = [item.input_line or "" for item in parsed if item is not swept[0]]
    key = swept[0].get_key_element()
    return [*fixed, f"{key}={choices[0]}"], [*fixed, f"{key}={choices[1]}"]


def parse(overrides: Sequence[str]) -> list[Any]:
    """Hydra's view of overrides; UserError for one that it cannot read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise UserError(" ".join(str(error).split())) from error


def measure_pairs(
    pairs: Sequence[Pair], settings: Settings, name: str, batch_pairs: int | None = None
) -> list[RowPair | None]:
    """Measure the pairs that no sweep called `name` has measured side by side, and return the rows of all in order.

    Both trials of a pair are measured anew, because half a pair of another hour is no pair. After each `batch_pairs`
    the time left is said.
    """
    found = match(_rows(settings), pairs, name)
    todo = [pair for pair, rows in zip(pairs, found, strict=True) if _again(rows, settings)]
    _announce([rows for rows in found if rows and not _again(rows, settings)], len(pairs))
    size, started = batch_pairs or len(pairs), time.perf_counter()
    for first in range(0, len(todo), size):
        batch = todo[first : first + size]
        run_sweep(schedule(batch, settings.order_seed), replace(settings, rerun="all", order="given"), name)
        if size < len(todo):
            _say_time_left(first + len(batch), len(todo), time.perf_counter() - started)
    return match(_rows(settings), pairs, name) if todo else found


def schedule(pairs: Sequence[Pair], order_seed: int) -> list[Trial]:
    """The pairs one after the other, each in a random order: AB or BA.

    The first pair's seed takes part, so that a sweep that goes on does not repeat the orders that it began with.
    """
    generator = random.Random(f"{order_seed} {pairs[0][0].seed}")
    return [trial for pair in pairs for trial in generator.sample(pair, 2)]


def match(rows: Sequence[dict[str, Any]], pairs: Sequence[Pair], name: str) -> list[RowPair | None]:
    """The newest rows of each pair that a sweep called `name` measured one after the other on this part, or None.

    `rows` are all of the results folder, oldest first: rows of another sweep in between are seen there.
    """
    part = {device: device_name(device) for device in {a.device for a, _ in pairs}}
    neighbours = {
        frozenset((left["trial_id"], right["trial_id"])): (left, right)
        for left, right in pairwise(rows)
        if left["sweep"] == right["sweep"] == name and right["order_index"] - left["order_index"] == 1
    }
    found: list[RowPair | None] = []
    for a, b in pairs:
        first, second = neighbours.get(frozenset((a.id, b.id)), (None, None))
        if first is None or second is None or {first["device_name"], second["device_name"]} != {part[a.device]}:
            found.append(None)
        else:
            found.append((first, second) if first["trial_id"] == a.id else (second, first))
    return found


def whole(found: Sequence[RowPair | None]) -> list[RowPair]:
    """The pairs whose two trials were both measured, under conditions that make neither row invalid."""
    return [rows for rows in found if rows and all(row["status"] == "ok" and not is_invalid(row) for row in rows)]


def is_invalid(row: dict[str, Any]) -> bool:
    """Whether something from outside spoilt the measurement, such as another process on the GPU."""
    return any(flag.startswith("invalid") for flag in row.get("flags") or ())


def judged(measured: Sequence[RowPair], same_within: float) -> list[Comparison]:
    """Every column that both rows of a pair have, judged together."""
    found = {column: pairs for column in COLUMNS if (pairs := values(measured, column))}
    columns = [Column([a / b for a, b, _ in pairs], COLUMNS[column]) for column, pairs in found.items()]
    verdicts = judge_columns(columns, same_within)
    return [Comparison(column, verdict, found[column]) for column, verdict in zip(found, verdicts, strict=True)]


def values(measured: Sequence[RowPair], column: str) -> list[tuple[float, float, str]]:
    """(value of A, value of B, order) of each pair that has both."""
    return [
        (float(left[column]), float(right[column]), "AB" if left["order_index"] < right["order_index"] else "BA")
        for left, right in measured
        if left.get(column) and right.get(column)
    ]


def show(first: Trial, second: Trial, comparisons: Sequence[Comparison], failed: int) -> str:
    """The comparison for people: a line for each column, then the pairs of the first."""
    a, b = _names(first, second)
    lines = [f"A: {a}", f"B: {b}", f"on {first.model.label}, {first.workload.label}, {first.device}", ""]
    lines += [_line(item, len(comparisons)) for item in comparisons]
    if comparisons:
        lines += ["", f"pairs of {comparisons[0].column}:"]
        lines += [f"  {order}  A {x:.6g}  B {y:.6g}  A/B {x / y:.4f}" for x, y, order in comparisons[0].pairs]
    if failed:
        lines.append(f"{failed} pair(s) left out: a trial failed or is invalid (run.rerun=failed tries those again)")
    return "\n".join(lines if comparisons else [*lines, "no pair has two measured rows; see the rows' reasons"])


def _line(item: Comparison, columns: int) -> str:
    found = item.verdict
    interval = "" if found.low is None or found.high is None else f"  95% interval {found.low:.4f} to {found.high:.4f}"
    among = f", among {columns} columns {found.adjusted_p_value:.2g}" if columns > 1 else ""
    p_values = f"  p {found.p_value:.2g}{among}"
    return f"{item.column:30} A/B = {found.ratio:.4f}{interval}{p_values}  n={len(item.pairs)}: {found.text}"


def _names(first: Trial, second: Trial) -> tuple[str, str]:
    for attribute in ("technique_label", "label"):
        a, b = getattr(first, attribute), getattr(second, attribute)
        if a != b:
            return a, b
    return first.label, second.label


def _rows(settings: Settings) -> list[dict[str, Any]]:
    rows = read_rows(Results(Path(settings.results)), [*READ, *COLUMNS]).table.to_pylist()
    return sorted(rows, key=lambda row: row["started_at"])


def _again(rows: RowPair | None, settings: Settings) -> bool:
    if rows is None or settings.rerun == "all":
        return True
    if settings.rerun == "failed":
        return any(row["status"] in FAILED or is_invalid(row) for row in rows)
    return settings.rerun == "stale" and any(_changes(row["versions_json"], row["code_revision"]) for row in rows)


@cache
def _changes(versions: str, code: str) -> tuple[str, ...]:
    return tuple(changes_since({"versions_json": versions, "code_revision": code}))


def _announce(kept: Sequence[RowPair], total: int) -> None:
    if kept:
        say(f"{len(kept)} of {total} pairs are measured already")
    stale = Counter(change for pair in kept for row in pair for change in _changes(*map(row.get, SOFTWARE)))
    for change, count in stale.items():
        say(f"{count} kept row(s) were measured with other software: {change}")
    if stale:
        say("run.rerun=stale measures them again")


def _say_time_left(done: int, total: int, seconds: float) -> None:
    left = seconds * (total - done) / done
    say(f"{done} of {total} pairs in {seconds / 60:.1f} min; about {left / 60:.1f} min left")


def say(line: str) -> None:
    """One line about the progress, beside the result."""
    print(line, file=sys.stderr)
