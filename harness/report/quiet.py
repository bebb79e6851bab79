"""Which rows were measured while others used the processor: on few cores that slows a step several times over."""

from __future__ import annotations

import json

import pandas as pd


def unquiet_lines(rows: pd.DataFrame) -> list[str]:
    """One line that counts such rows and names the worst, or none. Rows say so themselves, in `facts_json`."""
    said = rows["facts_json"].map(lambda text: json.loads(text or "{}").get("quiet", "quiet"))
    unquiet = rows[said.ne("quiet") & rows["status"].eq("ok")]
    if unquiet.empty:
        return []
    worst = unquiet.sort_values("others_busy_ratio", ascending=False, kind="stable").iloc[0]
    return [
        f"{len(unquiet)} of {len(rows)} rows were measured while others used the processor; the worst is "
        f"{worst['technique']} on {worst['workload']} ({said[worst.name]}). Measure them again on a quiet machine."
    ]
