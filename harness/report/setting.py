"""What decides a row's numbers beyond its technique and its seed: rows that differ in it are not compared."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

_PARTS = ("model", "workload", "corpus")
_PLAIN = ("protocol", "content", "device")


@lru_cache(65536)
def setting_of(trial_json: str | None) -> str:
    """Six hexadecimal digits of it; empty where the row has no trial.

    A label names an option, not what its file says today: a model whose YAML was edited is another model.
    """
    known = _known(trial_json)
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:6] if known else ""


def told_apart(trials: list[str | None]) -> list[str]:
    """For each trial, where its setting differs from the others': `seconds=4`, or its digest as a last resort."""
    flat = [_flat("", _known(trial)) for trial in trials]
    keys = sorted({key for one in flat for key in one})
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in flat}) > 1]
    words = [", ".join(f"{key.rpartition('.')[2]}={one.get(key, 'absent')}" for key in differing[:3]) for one in flat]
    distinct = len(set(words)) == len(words)
    return words if distinct else [f"setting {setting_of(trial)}" for trial in trials]


def _known(trial_json: str | None) -> dict[str, Any]:
    trial = json.loads(trial_json) if trial_json else {}
    parts = {key: {"target": trial[key]["target"], "options": trial[key]["options"]} for key in _PARTS if key in trial}
    return parts | {key: trial[key] for key in _PLAIN if key in trial}


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(f"{prefix}.{key}", inner)
    return found
