"""One entry for each configuration on each board: the median over its repeats, and whether it may be ranked."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report.frame import BOARD, NUMBERS

BASELINE = "none"
KEYS = [*BOARD, "config_id", "technique"]

#: A window that ended at its time limit is wide, not wrong: it has a column of its own and stays ranked.
MILD = ("not converged",)
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
    groups = rows.groupby(KEYS, sort=False, dropna=False)
    entries = groups.apply(_facts, include_groups=False).reset_index()
    medians = rows[rows["status"] == "ok"].groupby(KEYS, dropna=False)[[n for n in NUMBERS if n != "seed"]].median()
    entries = entries.merge(medians.reset_index(), on=KEYS, how="left", validate="1:1")
    return _told_apart(entries)


def _facts(group: pd.DataFrame) -> pd.Series:
    ok = group[group["status"] == "ok"]
    last = (ok if len(ok) else group).iloc[-1]
    flags = list(dict.fromkeys(flag for flags in group["flags"] for flag in flags))
    settled = [bool(value) for value in ok["converged"] if value is not None and value == value]
    facts: dict[str, Any] = {
        "runs": len(ok),
        "attempts": len(group),
        "status": "ok" if len(ok) else min(group["status"], key=_severity),
        "reason": next((reason for reason in group["reason"][::-1] if reason), None),
        "flags": flags,
        "ranked": len(ok) > 0 and not disqualifying(flags),
        "converged": all(settled) if settled else None,
    }
    kept = (
        "row_id",
        "technique_family",
        "token_kind",
        "weights_dtype",
        "reasons_json",
        "device",
        "seed",
        "changed_json",
    )
    return pd.Series(facts | {name: last[name] for name in kept})


def _severity(status: str) -> int:
    return _WORST_FIRST.index(status) if status in _WORST_FIRST else 0


def _told_apart(entries: pd.DataFrame) -> pd.DataFrame:
    """`label`: the technique, with its configuration's id where one board holds two of the same name."""
    twice = entries.duplicated([*BOARD, "technique"], keep=False)
    ids = entries["config_id"].fillna("").str[:6]
    entries["label"] = entries["technique"].where(~twice, entries["technique"] + " (" + ids + ")")
    return entries
