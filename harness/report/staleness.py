"""Which rows were measured with older software than the newest row of the same machine."""

from __future__ import annotations

import pandas as pd

from harness.machine.software import differences


def stale_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose versions or code differ from those of the machine's newest row: row_id, device_name, `changes`."""
    found = []
    for device, group in rows.groupby("device_name"):
        today = group.sort_values("started_at", kind="stable").iloc[-1]
        cache: dict[tuple, str] = {}
        for row in group[["row_id", "versions_json", "code_revision"]].itertuples(index=False):
            software = (row.versions_json, row.code_revision)
            if software not in cache:
                changes = differences(*software, today["versions_json"], today["code_revision"])
                cache[software] = "; ".join(changes).replace("->", "\N{RIGHTWARDS ARROW}")
            if cache[software]:
                found.append({"row_id": row.row_id, "device_name": device, "changes": cache[software]})
    return pd.DataFrame(found, columns=["row_id", "device_name", "changes"])


def summary_of(stale: pd.DataFrame, total: int) -> list[str]:
    """A line for each change of software, with the number of rows it concerns."""
    counts = stale.groupby("changes", sort=False)["row_id"].count()
    return [f"{count} of {total} rows are older: {changes}" for changes, count in counts.items()]
