"""The command that measures one row again, from the row's own trial."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any


def command_of(trial_json: str | None) -> str:
    """`harness run ...` with everything that decides the row; empty where the row holds no trial.

    Options that were changed through files of one's own are not on it, only those from the command line.
    """
    if not trial_json:
        return ""
    trial = json.loads(trial_json)
    parts = [f"{kind}={trial[kind]['name']}" for kind in ("model", "workload", "corpus")]
    parts.insert(1, f"technique={_choice([part['name'] for part in trial['techniques']])}")
    for kind in ("model", "workload", "corpus"):
        parts += [f"{kind}.{_whole(change, trial[kind]['options'])}" for change in trial[kind]["changes"]]
    for part in trial["techniques"]:
        parts += [f"technique.{part['name']}.{_whole(change, part['options'])}" for change in part["changes"]]
    parts += [f"match={trial['match']}"] if trial.get("match", "none") != "none" else []
    parts += [f"device={trial['device']}", f"seed={trial['seed']}"]
    parts += [f"protocol.{key}={value}" for key, value in sorted(trial["protocol"].items())]
    return shlex.join(["harness", "run", *parts])


def _choice(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"[{','.join(names)}]"


def _whole(change: str, options: Mapping[str, Any]) -> str:
    """A label drops `architecture.` from its key; the command needs it."""
    key = change.partition("=")[0].partition(".")[0]
    inside = options.get("architecture")
    return f"architecture.{change}" if key not in options and isinstance(inside, dict) and key in inside else change
