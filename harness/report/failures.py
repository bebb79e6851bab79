"""What works where: every technique on every workload by its status, with the reason where it has no numbers."""

from __future__ import annotations

import pandas as pd

#: From the most to the least telling, where one cell holds several settings, corpora or repeats.
SEVERITY = ("crash", "oom", "timeout", "error", "ok", "skipped")
CELL = ["device_name", "model", "technique", "workload"]


def matrix_of(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per machine, model, technique and workload: `status` (the worst), `reason`, `row_id`, `counts`."""
    place = rows["status"].map({status: index for index, status in enumerate(SEVERITY)}).fillna(0)
    ordered = rows.assign(place=place).sort_values([*CELL, "place", "started_at"], kind="stable")
    worst = ordered.drop_duplicates(CELL, keep="first")[[*CELL, "status", "reason", "row_id"]]
    counts = ordered.groupby(CELL)["status"].agg(_counted).rename("counts").reset_index()
    return worst.merge(counts, on=CELL, validate="1:1").reset_index(drop=True)


def reasons_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Every reason for a missing measurement, with the techniques and workloads it concerns; failures first."""
    failed = rows[rows["status"] != "ok"].assign(reason=lambda frame: frame["reason"].fillna("no reason was given"))
    columns = ["device_name", "model", "status", "technique", "reason"]
    found = failed.groupby(columns, sort=False)
    listed = found.agg(workloads=("workload", _unique), rows=("row_id", list)).reset_index()
    place = listed["status"].map({status: index for index, status in enumerate(SEVERITY)}).fillna(0)
    return listed.assign(place=place).sort_values(["place", "technique"], kind="stable").drop(columns="place")


def _counted(statuses: pd.Series) -> str:
    counts = statuses.value_counts()
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _unique(values: pd.Series) -> list[str]:
    return sorted(set(values))
