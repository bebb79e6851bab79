"""What this machine can measure, with which source, and what it cannot and why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import yaml

from harness.interfaces import Meter
from harness.machine import environment
from harness.plan.building import find_class
from harness.plan.config import config_folder

#: Libraries that techniques of the extras need, with the extra that installs them.
OPTIONAL = {"bitsandbytes": "quant", "hqq": "quant", "lion_pytorch": "optim", "datasets": "hub"}


def examine() -> dict[str, Any]:
    """Facts, sources by meter, and missing libraries, as plain data."""
    device = environment.resolve_device("auto")
    return {
        "device": device,
        "device_name": environment.device_name(device),
        "machine": environment.machine_facts(device),
        "versions": environment.versions(),
        "code_revision": environment.code_revision(),
        "sources": {name: meter.availability(device) for name, meter in meters().items()},
        "optional_libraries": {name: _library(name, extra) for name, extra in OPTIONAL.items()},
        "compiler": shutil.which("cc")
        or "unavailable: torch.compile and 8-bit optimizers need a C++ compiler on a CPU",
    }


def show(report: Mapping[str, Any], as_json: bool) -> str:
    """JSON, or lines for people: `+` can be measured, `-` cannot."""
    if as_json:
        return json.dumps(report, indent=2, default=str)
    lines = [f"device: {report['device_name']} ({report['device']})", "", "what can be measured here:"]
    for meter, sources in report["sources"].items():
        lines += [f"  {_mark(source)} {meter}: {name}: {source}" for name, source in sources.items()]
    lines += ["", "libraries of the extras:"]
    lines += [f"  {_mark(state)} {name}: {state}" for name, state in report["optional_libraries"].items()]
    lines += [f"  {_mark(report['compiler'])} C++ compiler: {report['compiler']}", "", "versions:"]
    lines += [f"    {name} {version}" for name, version in report["versions"].items()]
    return "\n".join(lines)


def meters() -> dict[str, Meter]:
    """Every meter of the configuration folder, with its defaults."""
    return {
        path.stem: find_class(yaml.safe_load(path.read_text())["_target_"], "meters", str(path))()
        for path in sorted((config_folder() / "meters").glob("*.yaml"))
    }


def _library(name: str, extra: str) -> str:
    return "installed" if find_spec(name) else f"unavailable: install efficiency-harness[{extra}]"


def _mark(state: str) -> str:
    return "-" if state.startswith("unavailable") else "+"
