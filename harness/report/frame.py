"""Rows as a data frame in which every column of the report exists, and what tells one comparison from another."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from harness.report.metrics import METRICS
from harness.report.setting import setting_of

#: Rows that agree in these may be compared; `setting` is what their labels leave open.
BOARD = ["device_name", "model", "workload", "corpus", "setting"]

TEXT = [
    "row_id",
    "trial_id",
    "config_id",
    "status",
    "reason",
    "traceback",
    "model",
    "technique",
    "technique_family",
    "workload",
    "corpus",
    "device",
    "device_name",
    "code_revision",
    "versions_json",
    "environment_json",
    "trial_json",
    "changed_json",
    "reasons_json",
    "facts_json",
    "started_at",
    "command",
    "token_kind",
    "weights_dtype",
]
NUMBERS = [
    *METRICS,
    "seed",
    "latency_mean_seconds",
    "latency_spread_ratio",
    "throughput_samples_per_second",
    "parameter_count",
    "step_count",
    "mean_allocated_bytes",
    "mean_host_bytes",
    "gradient_bytes",
    "peak_weights_bytes",
    "peak_gradient_bytes",
    "peak_optimizer_state_bytes",
    "peak_kv_cache_bytes",
    "peak_activation_bytes",
    "peak_workspace_bytes",
    "gpu_busy_ratio",
    "others_busy_ratio",
    "gpu_power_mean_watts",
    "quality_standard_error_bits_per_byte",
]


def frame_of(table: pa.Table) -> pd.DataFrame:
    """The rows, oldest first: absent columns are null, flags are lists, and `setting` is added."""
    rows = table.to_pandas().copy()
    for name in TEXT:
        rows[name] = rows[name].astype(object).where(rows[name].notna(), None) if name in rows else None
    for name in NUMBERS:
        rows[name] = pd.to_numeric(rows[name]) if name in rows else float("nan")
    rows["flags"] = [_list(value) for value in rows["flags"]] if "flags" in rows else [[] for _ in range(len(rows))]
    rows["step_seconds"] = [_list(v) for v in rows["step_seconds"]] if "step_seconds" in rows else None
    if "converged" not in rows:
        rows["converged"] = None
    for name in BOARD[:-1]:
        rows[name] = rows[name].fillna("unknown")
    rows["setting"] = rows["trial_json"].map(setting_of)
    return rows.sort_values(["started_at", "row_id"], kind="stable").reset_index(drop=True)


def newest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each trial on each part the row that was started last, whatever its status; older ones do not count."""
    ordered = rows.sort_values(["started_at", "row_id"], kind="stable")
    return ordered.drop_duplicates(["trial_id", "device_name"], keep="last").reset_index(drop=True)


def _list(value: Any) -> list[Any]:
    return [] if value is None or isinstance(value, float) else list(value)
