"""A board: everything that may be compared with one another, in the order in which it is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from harness.report.entries import BASELINE
from harness.report.frame import BOARD
from harness.report.ranks import signs_of
from harness.report.setting import told_apart
from harness.report.wording import missing

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
    #: Where another board has the same labels: in what this one differs from it.
    difference: str
    several_machines: bool
    several_corpora: bool

    @property
    def title(self) -> str:
        """What it compares: workload and model, and whatever else tells it from the other boards."""
        parts = [self.workload, self.model]
        parts += [f"on {self.corpus}"] if self.several_corpora else []
        parts += [self.device_name] if self.several_machines else []
        parts += [self.difference] if self.difference else []
        return " \N{MIDDLE DOT} ".join(parts)

    @property
    def key(self) -> tuple[str, ...]:
        """What it is the board of, in any report."""
        return self.device_name, self.model, self.workload, self.corpus, self.setting

    @property
    def slug(self) -> str:
        """A file name and an anchor; unique among boards, because it ends in the key's own digest."""
        key = "\0".join(self.key)
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.workload}-{self.model}".lower()).strip("-")[:60]
        return f"{words}-{_digest(key)}"

    @cached_property
    def records(self) -> list[dict]:
        """The measured entries as dictionaries, in order; made once, because pandas takes milliseconds for it."""
        return self.measured.to_dict("records")

    @cached_property
    def ranked(self) -> list[dict]:
        """The entries of `records` with a rank, best first."""
        return [entry for entry in self.records if not missing(entry["rank_best"])]

    @cached_property
    def _signs(self) -> dict[str, dict[tuple[str, str], int]]:
        return {}

    def sign(self, a: dict, b: dict, metric: str) -> int:
        """-1 where the runs tell that ranked entry `a` has less of `metric` than `b`, 1 for more, 0 for neither."""
        if metric not in self._signs:
            ids = [entry["row_id"] for entry in self.ranked]
            table = zip(ids, signs_of(self.ranked, metric), strict=True)
            self._signs[metric] = {
                (one, other): sign for one, row in table for other, sign in zip(ids, row, strict=True)
            }
        return self._signs[metric][a["row_id"], b["row_id"]]

    @property
    def quality_known(self) -> bool:
        """Whether any ranked entry can be said to keep or lose quality."""
        return any(entry["keeps_quality"] is not None for entry in self.ranked)

    @property
    def measured(self) -> pd.DataFrame:
        """Entries with numbers, flagged ones included."""
        return self.entries[self.entries["status"] == "ok"]

    @property
    def baseline(self) -> dict | None:
        """The baseline's entry, or None where it gave no comparable row."""
        return next((entry for entry in self.ranked if entry["technique"] == BASELINE), None)

    @property
    def token_kind(self) -> str:
        """trained, prompt or output; empty where nothing was measured."""
        kinds = self.measured["token_kind"].dropna()
        return str(kinds.iloc[0]) if len(kinds) else ""


def boards_of(entries: pd.DataFrame) -> list[Board]:
    """All boards: by machine and model, training before reading before writing."""
    groups = dict(iter(entries.groupby(BOARD, dropna=False, sort=True)))
    keys = pd.DataFrame(list(groups), columns=BOARD)
    differences = _differences(groups)
    machines, corpora = keys["device_name"].nunique() > 1, keys["corpus"].nunique() > 1
    found = [
        Board(
            **{name: str(value) for name, value in zip(BOARD, key, strict=True)},
            entries=_in_order(group),
            difference=differences.get(key, ""),
            several_machines=machines,
            several_corpora=corpora,
        )
        for key, group in groups.items()
    ]
    return sorted(found, key=lambda b: (b.device_name, b.model, _KIND_ORDER.get(b.token_kind, 3), b.workload))


def _differences(groups: dict[tuple, pd.DataFrame]) -> dict[tuple, str]:
    """For boards that share every label: what tells each from the others."""
    alike: dict[tuple, list[tuple]] = {}
    for key in groups:
        alike.setdefault(key[:-1], []).append(key)
    found: dict[tuple, str] = {}
    for keys in alike.values():
        if len(keys) > 1:
            words = told_apart([groups[key]["trial_json"].iloc[0] for key in keys])
            found |= dict(zip(keys, words, strict=True))
    return found


def _in_order(group: pd.DataFrame) -> pd.DataFrame:
    place = group["status"].map({"ok": 0, "skipped": 2}).fillna(1)
    order = group.assign(place=place).sort_values(
        ["place", "rank_best", "rank_worst", "latency_p50_seconds", "label"], na_position="last", kind="stable"
    )
    return order.drop(columns="place")


def _digest(key: str) -> str:
    from hashlib import sha256

    return sha256(key.encode()).hexdigest()[:6]
