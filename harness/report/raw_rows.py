"""Every row as compact JSON for the page's table: texts that repeat are written once and pointed at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.report.command import command_of
from harness.report.wording import missing

#: Columns of the page's table, in its order.
TABLE = [
    "started_at",
    "model",
    "technique",
    "workload",
    "status",
    "latency_p50_seconds",
    "throughput_tokens_per_second",
    "peak_allocated_bytes",
    "weights_bytes",
    "quality_bits_per_byte",
    "seed",
    "corpus",
    "device_name",
]
_POINTS = 60


class Pool:
    """Texts by number. Many rows share their versions, reasons and most of their configuration."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def __call__(self, text: Any) -> int:
        """The number of a text; -1 for nothing."""
        if missing(text) or text == "":
            return -1
        place = self._places.setdefault(str(text), len(self.texts))
        if place == len(self.texts):
            self.texts.append(str(text))
        return place


def data_of(rows: pd.DataFrame, stale: pd.DataFrame, replaced: set[str]) -> dict[str, Any]:
    """`pool`, `columns` and `rows`; each row is [id, table values, details] with details pointing into the pool."""
    pool, old = Pool(), dict(zip(stale["row_id"], stale["changes"], strict=True))
    packed = []
    for row in rows.to_dict("records"):
        values = [_value(pool, row[name], name) for name in TABLE]
        age = "replaced by a newer row of the same trial" if row["row_id"] in replaced else old.get(row["row_id"])
        packed.append([row["row_id"], values, _details(pool, row, age)])
    return {"pool": pool.texts, "columns": TABLE, "rows": packed}


def _value(pool: Pool, value: Any, name: str) -> Any:
    if name in ("model", "technique", "workload", "status", "corpus", "device_name", "started_at"):
        return pool(value)
    return None if missing(value) else float(f"{value:.5g}")


def _details(pool: Pool, row: dict[str, Any], age: str | None) -> dict[str, Any]:
    found = {
        "why": pool(row["reason"]),
        "trace": pool((row["traceback"] or "")[-4000:]),
        "flags": [pool(flag) for flag in row["flags"]],
        "changed": _pairs(pool, row["changed_json"]),
        "nulls": _pairs(pool, row["reasons_json"]),
        "trial": _pairs(pool, row["trial_json"]),
        "versions": pool(row["versions_json"]),
        "code": pool(row["code_revision"]),
        "again": pool(command_of(row["trial_json"])),
        "command": pool(row["command"]),
        "age": pool(age),
        "steps": sparkline(row["step_seconds"]),
        "count": len(row["step_seconds"]) if row["step_seconds"] is not None else 0,
    }
    return {key: value for key, value in found.items() if value not in (-1, [], 0, None)}


def _pairs(pool: Pool, text: str | None) -> list[int]:
    """A JSON object as key, value, key, value ... in the pool: its parts repeat more often than the whole."""
    pairs = json.loads(text or "{}")
    flat = [
        (key, value if isinstance(value, str) else json.dumps(value, sort_keys=True)) for key, value in pairs.items()
    ]
    return [place for pair in flat for place in (pool(pair[0]), pool(pair[1]))]


def sparkline(seconds: Sequence[float] | None) -> list[float]:
    """At most 60 step times, each the largest of its stretch, so that no slow step is lost; seconds."""
    values = list(seconds) if seconds is not None else []
    if len(values) <= _POINTS:
        return [float(f"{value:.3g}") for value in values]
    edges = [round(i * len(values) / _POINTS) for i in range(_POINTS + 1)]
    return [float(f"{max(values[a:b]):.3g}") for a, b in zip(edges, edges[1:], strict=False)]
