"""A board: everything that may be compared with one another, in the order in which it is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from harness.report.entries import BASELINE
from harness.report.frame import BOARD

_KIND_ORDER = {"trained": 0, "prompt": 1, "output": 2}


@dataclass(frozen=True)
class Board:
    """Entries of one machine, model, workload, corpus and setting."""

    device_name: str
    model: str
    workload: str
    corpus: str
    setting: str
    entries: pd.DataFrame
    #: True where another board differs from this one only in its setting, so that a title must name it.
    named_by_setting: bool
    several_machines: bool
    several_corpora: bool

    @property
    def title(self) -> str:
        """What it compares: workload and model, and whatever else tells it from the other boards."""
        parts = [self.workload, self.model]
        parts += [f"on {self.corpus}"] if self.several_corpora else []
        parts += [self.device_name] if self.several_machines else []
        parts += [f"setting {self.setting}"] if self.named_by_setting else []
        return " \N{MIDDLE DOT} ".join(parts)

    @property
    def slug(self) -> str:
        """A file name and an anchor; unique among boards, because it ends in the key's own digest."""
        key = "\0".join((self.device_name, self.model, self.workload, self.corpus, self.setting))
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.workload}-{self.model}".lower()).strip("-")[:60]
        return f"{words}-{_digest(key)}"

    @cached_property
    def records(self) -> list[dict]:
        """The measured entries as dictionaries, in order; made once, because pandas takes milliseconds for it."""
        return self.measured.to_dict("records")

    @property
    def ranked(self) -> pd.DataFrame:
        """Entries with a rank, best first."""
        return self.entries[self.entries["rank_best"].notna()]

    @property
    def measured(self) -> pd.DataFrame:
        """Entries with numbers, flagged ones included."""
        return self.entries[self.entries["status"] == "ok"]

    @property
    def baseline(self) -> dict | None:
        """The baseline's entry, or None where it gave no comparable row."""
        found = self.ranked[self.ranked["technique"] == BASELINE]
        return found.iloc[0].to_dict() if len(found) else None

    @property
    def token_kind(self) -> str:
        """trained, prompt or output; empty where nothing was measured."""
        kinds = self.measured["token_kind"].dropna()
        return str(kinds.iloc[0]) if len(kinds) else ""


def boards_of(entries: pd.DataFrame) -> list[Board]:
    """All boards: by machine and model, training before reading before writing."""
    groups = dict(iter(entries.groupby(BOARD, dropna=False, sort=True)))
    keys = pd.DataFrame(list(groups), columns=BOARD)
    shared = keys.duplicated(BOARD[:-1], keep=False).tolist()
    machines, corpora = keys["device_name"].nunique() > 1, keys["corpus"].nunique() > 1
    found = [
        Board(
            **{name: str(value) for name, value in zip(BOARD, key, strict=True)},
            entries=_in_order(group),
            named_by_setting=named,
            several_machines=machines,
            several_corpora=corpora,
        )
        for (key, group), named in zip(groups.items(), shared, strict=True)
    ]
    return sorted(found, key=lambda b: (b.device_name, b.model, _KIND_ORDER.get(b.token_kind, 3), b.workload))


def _in_order(group: pd.DataFrame) -> pd.DataFrame:
    place = group["status"].map({"ok": 0, "skipped": 2}).fillna(1)
    order = group.assign(place=place).sort_values(
        ["place", "rank_best", "rank_worst", "latency_p50_seconds", "label"], na_position="last", kind="stable"
    )
    return order.drop(columns="place")


def _digest(key: str) -> str:
    from hashlib import sha256

    return sha256(key.encode()).hexdigest()[:6]
