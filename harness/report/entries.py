"""One entry for each configuration on each board: the median over its repeats, and whether it may be ranked."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report.frame import BOARD, NUMBERS
from harness.report.wording import missing

BASELINE = "none"
KEYS = [*BOARD, "config_id", "technique"]

#: A window that ended at its time limit is wide, not wrong: it has a column of its own and stays ranked.
MILD = ("not converged",)
#: Taken from the newest row of an entry.
_KEPT = "row_id technique_family token_kind weights_dtype reasons_json device seed trial_json".split()
_WORST_FIRST = ("crash", "oom", "timeout", "error", "skipped")


def disqualifying(flags: list[str]) -> list[str]:
    """The flags that keep a row from being ranked: broken identities, and a technique that changed nothing."""
    return [flag for flag in flags if not flag.startswith(MILD)]


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose numbers may be compared: measured, and without a disqualifying flag."""
    clean = rows["flags"].map(lambda flags: not disqualifying(flags)).astype(bool)
    return rows[(rows["status"] == "ok") & clean]


def entries_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Entries of `rows` (newest rows only): medians of every number, `runs`, `attempts`, `status`, `flags`, `ranked`.

    Numbers come from rows with status ok, flagged ones included, so that they can be shown; `ranked` says whether the
    entry takes part in a comparison.
    """
    plain = rows[[*KEYS, *_KEPT, "status", "reason", "flags", "converged"]].to_dict("records")
    groups: dict[tuple, list[dict]] = {}
    for row in plain:
        groups.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    entries = pd.DataFrame([_facts(group) for group in groups.values()])
    medians = rows[rows["status"] == "ok"].groupby(KEYS, dropna=False)[[n for n in NUMBERS if n != "seed"]].median()
    entries = entries.merge(medians.reset_index(), on=KEYS, how="left", validate="1:1")
    return _told_apart(entries)


def _facts(group: list[dict[str, Any]]) -> dict[str, Any]:
    """What is not a median of an entry's rows, which are in the order they were started in."""
    ok = [row for row in group if row["status"] == "ok"]
    last = (ok or group)[-1]
    flags = list(dict.fromkeys(flag for row in group for flag in row["flags"]))
    settled = [bool(row["converged"]) for row in ok if not missing(row["converged"])]
    return {name: last[name] for name in (*KEYS, *_KEPT)} | {
        "runs": len(ok),
        "attempts": len(group),
        "status": "ok" if ok else min((row["status"] for row in group), key=_severity),
        "reason": next((row["reason"] for row in reversed(group) if row["reason"]), None),
        "flags": flags,
        "ranked": bool(ok) and not disqualifying(flags),
        "converged": all(settled) if settled else None,
    }


def _severity(status: str) -> int:
    return _WORST_FIRST.index(status) if status in _WORST_FIRST else 0


def _told_apart(entries: pd.DataFrame) -> pd.DataFrame:
    """`label`: the technique, with its configuration's id where one board holds two of the same name."""
    twice = entries.duplicated([*BOARD, "technique"], keep=False)
    ids = entries["config_id"].fillna("").str[:6]
    entries["label"] = entries["technique"].where(~twice, entries["technique"] + " (" + ids + ")")
    return entries
