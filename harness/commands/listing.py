"""What there is to choose from, read from the configuration folders; no list is kept anywhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from harness.interfaces import moments
from harness.plan.building import find_class
from harness.plan.config import config_folder

#: `harness list` takes the plural; the folder has the group's name.
GROUPS = {
    "techniques": "technique",
    "models": "model",
    "workloads": "workload",
    "corpora": "corpus",
    "protocols": "protocol",
    "meters": "meters",
    "sweeps": "sweep",
}


def listing(plural: str, user_folder: str | None = None) -> list[dict[str, Any]]:
    """One entry for each option of a group, the user's own folder included."""
    group = GROUPS[plural]
    folders = [folder / group for folder in (config_folder(), *([Path(user_folder)] if user_folder else []))]
    found = [_entry(group, path) for folder in folders for path in sorted(folder.glob("*.yaml"))]
    return sorted(found, key=lambda entry: (entry.get("family", ""), entry["name"]))


def show(entries: Sequence[Mapping[str, Any]], as_json: bool) -> str:
    """JSON, or a table for people."""
    if as_json:
        return json.dumps(entries, indent=2)
    columns = [key for key in entries[0] if key not in ("options", "metrics")] if entries else []
    widths = {key: max(len(key), *(len(str(entry.get(key) or "")) for entry in entries)) for key in columns}
    lines = ["  ".join(key.replace("_", " ").ljust(widths[key]) for key in columns)]
    lines += ["  ".join(str(entry.get(key) or "").ljust(widths[key]) for key in columns) for entry in entries]
    return "\n".join(line.rstrip() for line in lines)


def _entry(group: str, path: Path) -> dict[str, Any]:
    text = path.read_text()
    data = yaml.safe_load(text) or {}
    entry: dict[str, Any] = {"name": path.stem}
    if group == "technique":
        entry |= _technique(data)
    elif group == "meters":
        entry |= _meter(data)
    elif group == "sweep":
        parameters = data.get("hydra", {}).get("sweeper", {}).get("params", {})
        entry |= {"trials": _size(parameters), "about": _comment(text)}
    elif group == "workload":
        found = find_class(data["_target_"], group, str(path))
        entry |= {"exercises": ", ".join(sorted(found.moments)), "about": _first_line(found)}  # type: ignore[attr-defined]
    else:
        entry["about"] = _comment(text) or _about(group, data, path)
    entry["options"] = {key: value for key, value in data.items() if key not in ("_target_", "defaults", "hydra")}
    return entry


def _technique(data: Mapping[str, Any]) -> dict[str, Any]:
    found: Any = find_class(data["_target_"], "technique", "technique")
    return {
        "family": found.family,
        "acts_in": ", ".join(sorted(moments(found()))),
        "library": _with_version(found.library),
        "paper": found.paper,
        "about": _first_line(found),
    }


def _meter(data: Mapping[str, Any]) -> dict[str, Any]:
    found: Any = find_class(data["_target_"], "meters", "meters")
    metrics = [{"name": m.name, "unit": m.unit, "better": m.better, "meaning": m.meaning} for m in found.metrics]
    return {"columns": len(metrics), "about": _first_line(found), "metrics": metrics}


def _with_version(library: str) -> str:
    name = library.split(" ")[0]
    try:
        return f"{library} {metadata.version(name)}" if name and name != "this" else library
    except metadata.PackageNotFoundError:
        return f"{library} (not installed)"


def _about(group: str, data: Mapping[str, Any], path: Path) -> str:
    return _first_line(find_class(data["_target_"], group, str(path))) if "_target_" in data else ""


def _first_line(found: type) -> str:
    return (found.__doc__ or "").strip().splitlines()[0]


def _comment(text: str) -> str:
    lines = [line[2:] for line in text.splitlines() if line.startswith("# ") and not line.startswith("# @package")]
    return lines[0] if lines else ""


def _size(parameters: Mapping[str, Any]) -> int:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override

    count = 1
    for key, value in parameters.items():
        override: Override = OverridesParser.create().parse_override(f"{key}={value}")
        count *= len(list(override.sweep_string_iterator())) if override.is_sweep_override() else 1
    return count
