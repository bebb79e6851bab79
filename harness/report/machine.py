"""The machines of a report: what they are, with which software, and what was measured on them when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.report.wording import amount


@dataclass(frozen=True)
class Machine:
    """One part, as its newest row describes it."""

    name: str
    facts: list[str]
    versions: dict[str, str]
    statuses: dict[str, int]
    first: str
    last: str


def machines_of(rows: pd.DataFrame) -> list[Machine]:
    """Every `device_name` of `rows`, by name."""
    return [_machine(str(name), group) for name, group in rows.groupby("device_name")]


def _machine(name: str, group: pd.DataFrame) -> Machine:
    last = group.sort_values("started_at", kind="stable").iloc[-1]
    counts = group["status"].value_counts()
    return Machine(
        name=name,
        facts=_facts(json.loads(last["environment_json"] or "{}")),
        versions=json.loads(last["versions_json"] or "{}"),
        statuses={str(status): int(count) for status, count in counts.items()},
        first=str(group["started_at"].min() or ""),
        last=str(group["started_at"].max() or ""),
    )


def _facts(environment: dict[str, Any]) -> list[str]:
    gpu = environment.get("gpu") or {}
    limit, board = gpu.get("power_limit_watts"), gpu.get("memory_total_bytes")
    host = environment.get("memory_total_bytes")
    lines = [
        f"{amount(board, '_bytes')} GPU memory" if board else "",
        f"power limit {limit:.0f} W" if limit else "",
        f"driver {gpu['driver_version']}" if gpu.get("driver_version") else "",
        f"processor {environment['cpu_model']}" if gpu and environment.get("cpu_model") else "",
        f"{environment['usable_core_count']} cores usable" if environment.get("usable_core_count") else "",
        f"{amount(host, '_bytes')} host memory" if host else "",
        _system(str(environment.get("operating_system") or "")),
        "virtual machine" if environment.get("virtual_machine") else "",
    ]
    return [line for line in lines if line]


def _system(text: str) -> str:
    # The kernel's full build name is noise in a heading: `Linux-6.1.0-18-amd64-x86_64-with-glibc2.36`.
    parts = text.split("-")
    return " ".join(parts[:2]) if len(parts) > 1 else text
