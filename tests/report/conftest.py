"""Rows as the harness writes them, made by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from harness.report.contents import Contents, contents_of
from harness.report.frame import frame_of
from harness.rows.store import Results, flatten, schema_of, write_row

Row = dict[str, Any]


def row_of(technique: str = "none", seed: int = 0, **changes: Any) -> Row:
    """A measured row; `changes` replace columns, `trial` merges into the trial."""
    about = {"model": "tiny", "workload": "prefill", "corpus": "words", "device": "cpu", "device_name": "Box (2 cores)"}
    about |= {name: changes[name] for name in about if name in changes}
    part = {"changes": [], "options": {}, "target": "x.Y"}
    trial = {
        **{kind: {"name": about[kind], **part} for kind in ("model", "workload", "corpus")},
        "techniques": [{"name": name, **part} for name in technique.split("+")],
        "protocol": {"minimum_samples": 10},
        "meters": [],
        "device": about["device"],
        "seed": seed,
        "content": {},
        **changes.pop("trial", {}),
    }
    config = hashlib.sha256(json.dumps([about, technique, trial["protocol"]]).encode()).hexdigest()[:16]
    number = changes.pop("number", 0)
    row: Row = {
        **about,
        "trial_id": f"{config}-{seed}",
        "config_id": config,
        "row_id": f"{config}-{seed}-{number}",
        "technique": technique,
        "technique_family": "family",
        "seed": seed,
        "status": "ok",
        "started_at": f"2026-01-01T00:00:{number:02d}+00:00",
        "trial_json": json.dumps(trial),
        "versions_json": json.dumps({"torch": "2.13.0"}),
        "environment_json": json.dumps({"usable_core_count": 2, "operating_system": "Linux-6.1-x"}),
        "code_revision": "abc",
        "command": "harness run",
        "changed_json": json.dumps({technique: "something"}),
        "reasons": {"gpu_energy_per_token_joules": "no GPU"},
        "facts": {},
        "token_kind": "prompt",
        "weights_dtype": "Parameter[float32]",
        "converged": True,
        "latency_p50_seconds": 0.1,
        "latency_mean_seconds": 0.1,
        "latency_spread_ratio": 0.05,
        "throughput_tokens_per_second": 1000.0,
        "throughput_samples_per_second": 10.0,
        "parameter_count": 1_000_000,
        "peak_allocated_bytes": 100e6,
        "mean_host_bytes": 300e6,
        "weights_bytes": 40e6,
        "kv_cache_bytes": 10e6,
        "quality_bits_per_byte": 4.0,
        "quality_standard_error_bits_per_byte": 0.05,
        "energy_per_token_estimated_joules": 0.002,
        "gpu_energy_per_token_joules": None,
        "step_seconds": [0.1, 0.11, 0.09],
        "flags": [],
    }
    return row | changes


def failed_row(technique: str, status: str = "error", reason: str = "it broke", **changes: Any) -> Row:
    """A row without numbers."""
    row = row_of(technique, **changes)
    kept = {name: value for name, value in row.items() if not isinstance(value, float | list) and name != "converged"}
    return kept | {"status": status, "reason": reason, "flags": []}


def frame_from(rows: list[Row]) -> pd.DataFrame:
    """The rows as the report reads them, without the disk."""
    tables = []
    for row in rows:
        flat = flatten(row)
        tables.append(pa.Table.from_pylist([flat], schema=schema_of(flat)))
    return frame_of(pa.concat_tables(tables, promote_options="permissive"))


@pytest.fixture
def row() -> Callable[..., Row]:
    return row_of


@pytest.fixture
def failed() -> Callable[..., Row]:
    return failed_row


@pytest.fixture
def frame() -> Callable[[list[Row]], pd.DataFrame]:
    return frame_from


@pytest.fixture
def contents() -> Callable[[list[Row]], Contents]:
    return lambda rows: contents_of(frame_from(rows), [])


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[list[Row]], Path]:
    """Write rows to a results folder and return it."""

    def write(rows: list[Row]) -> Path:
        for one in rows:
            write_row(Results(tmp_path), one)
        return tmp_path

    return write
