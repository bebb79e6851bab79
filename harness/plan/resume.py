"""What is measured already, what has become stale, and rows that a killed sweep left behind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.machine import environment
from harness.machine.software import differences
from harness.plan.settings import Settings
from harness.rows.store import Results, read_rows, write_row
from harness.trial import Trial

FAILED = ("error", "crash", "timeout", "oom")
COLUMNS = ["row_id", "trial_id", "status", "device_name", "versions_json", "code_revision", "started_at"]


@dataclass
class Plan:
    """Which trials to run, and what to say of the others."""

    run: list[Trial]
    measured: int = 0
    failed: int = 0
    #: What differs from today for rows that are kept: `torch 2.11.0 -> 2.13.0`, with how many rows it concerns.
    stale: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def plan(results: Results, trials: Iterable[Trial], settings: Settings) -> Plan:
    """Leave out what has a row on this part already, as `settings.rerun` says."""
    rows = read_rows(results, COLUMNS)
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows.table.to_pylist(), key=lambda row: row["started_at"]):
        newest[row["trial_id"], row["device_name"]] = row
    found = Plan([], unreadable=rows.unreadable)
    for trial in trials:
        row = newest.get((trial.id, environment.device_name(trial.device)))
        changes = changes_since(row) if row else []
        if row is None or settings.rerun == "all" or _again(row, changes, settings):
            found.run.append(trial)
            continue
        found.measured += 1
        found.failed += row["status"] in FAILED
        for change in changes:
            found.stale[change] = found.stale.get(change, 0) + 1
    return found


def _again(row: dict[str, Any], changes: Sequence[str], settings: Settings) -> bool:
    if settings.rerun == "failed":
        return row["status"] in FAILED
    return settings.rerun == "stale" and bool(changes)


def changes_since(row: dict[str, Any]) -> list[str]:
    """What is other software now than when the row was measured."""
    today = json.dumps(environment.versions())
    return differences(row["versions_json"], row["code_revision"], today, environment.code_revision())


def recover(results: Results) -> int:
    """Store rows that were finished but not stored when a sweep was killed. Returns how many."""
    count = 0
    for path in sorted(results.logs.glob("*/row.json")):
        with suppress(ValueError):
            row = json.loads(path.read_text())
            if "trial_id" in row:
                parent = json.loads((path.parent / "parent.json").read_text())
                write_row(results, {**row, **parent})
                count += 1
        path.unlink()
    return count
