"""Which rows were measured with older software than the newest row of the same machine."""

from __future__ import annotations

import json

import pandas as pd


def stale_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose versions or code differ from those of the machine's newest row: row_id, device_name, `changes`."""
    found = []
    for device, group in rows.groupby("device_name"):
        today = group.sort_values("started_at", kind="stable").iloc[-1]
        cache: dict[tuple, str] = {}
        for row in group[["row_id", "versions_json", "code_revision"]].itertuples(index=False):
            software = (row.versions_json, row.code_revision)
            if software not in cache:
                cache[software] = "; ".join(differences(*software, today["versions_json"], today["code_revision"]))
            if cache[software]:
                found.append({"row_id": row.row_id, "device_name": device, "changes": cache[software]})
    return pd.DataFrame(found, columns=["row_id", "device_name", "changes"])


def differences(then: str | None, then_code: str | None, now: str | None, now_code: str | None) -> list[str]:
    """`torch 2.11.0 -> 2.13.0` for each package, and the harness's own code."""
    before, after = json.loads(then or "{}"), json.loads(now or "{}")
    found = [
        f"{name} {before.get(name, 'absent')} \N{RIGHTWARDS ARROW} {after.get(name, 'absent')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if then_code != now_code:
        found.append(f"harness code {then_code} \N{RIGHTWARDS ARROW} {now_code}")
    return found


def summary_of(stale: pd.DataFrame, total: int) -> list[str]:
    """A line for each change of software, with the number of rows it concerns."""
    counts = stale.groupby("changes", sort=False)["row_id"].count()
    return [f"{count} of {total} rows are older: {changes}" for changes, count in counts.items()]
