"""Hydra's composed configurations become trials: the planning side's only meeting with Hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.building import build, make, make_part, nearest
from harness.environment import resolve_device
from harness.errors import UserError
from harness.protocol import Protocol
from harness.settings import Settings
from harness.trial import Trial

GROUPS = ("model", "technique", "workload", "corpus", "protocol", "meters", "sweep")
KEYS = ("model", "technique", "workload", "corpus", "protocol", "meters", "device", "seed", "run")


def config_folder() -> Path:
    """`conf/`, inside an installed package or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def compose_all(loader: Any, master: Any, jobs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The plain configuration of every job; on all cores, because Hydra takes tens of milliseconds for each."""
    global _loader, _master
    _loader, _master = loader, master
    _check_technique_options(jobs)
    if len(jobs) < 8:
        return [_compose(job) for job in jobs]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        return list(pool.map(_compose, jobs, chunksize=4))


# Set before the pool forks, so that its workers inherit them: neither can be pickled.
_loader: Any = None
_master: Any = None


def _compose(job: Sequence[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    overrides = adapt(job)
    config = _loader.load_sweep_config(_master, overrides)
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    config.pop("hydra")  # its own interpolations resolve only while it runs
    plain = OmegaConf.to_container(config, resolve=True)
    return {"config": plain, "choices": choices, "overrides": overrides}


def adapt(job: Sequence[str]) -> list[str]:
    """Leave out options of techniques that this job does not use: `technique=none,lora technique.lora.r=4,8` works."""
    chosen = _chosen_techniques(job)
    return [item for item in map(force, job) if not (owner := _technique_of(item)) or owner in chosen]


def _check_technique_options(jobs: Sequence[Sequence[str]]) -> None:
    """UserError for an option of a technique that no job uses: it would be left out everywhere."""
    chosen = {name for job in jobs for name in _chosen_techniques(job)}
    for item in jobs[0] if jobs else ():
        owner = _technique_of(item)
        if owner and owner not in chosen:
            raise UserError(f"{item.lstrip('+')}: no trial uses technique {owner!r}.{nearest(owner, chosen)}")


def _chosen_techniques(job: Sequence[str]) -> set[str]:
    choices = [item.partition("=")[2] for item in job if item.startswith("technique=")]
    return set(re.findall(r"[\w-]+", choices[-1])) if choices else {"none"}


def _technique_of(item: str) -> str | None:
    found = re.match(r"\+*technique\.([\w-]+)\.", item)
    return found[1] if found else None


def force(override: str) -> str:
    """`++key=value` for a key inside an option: it may then set a field that the option's file leaves at its default.

    A key that does not exist is found when the option is built, with the names there are.
    """
    key = override.partition("=")[0].lstrip("+")
    inside = "=" in override and key.partition(".")[0] in (*GROUPS, "run") and "." in key
    return f"++{override.lstrip('+')}" if inside else override


def to_trials(composed: Mapping[str, Any]) -> tuple[list[Trial], Settings]:
    """The trials of one job (one for each repeat) and its settings. UserError when anything does not fit."""
    config = composed["config"]
    for key in config:
        if key not in KEYS:
            raise UserError(f"unknown key {key!r}.{nearest(key, KEYS)} The configuration has: {', '.join(KEYS)}.")
    settings = build(Settings, config.get("run") or {}, "run")
    protocol = asdict(build(Protocol, config["protocol"], "protocol"))
    changes = _changes(composed["overrides"])
    parts = {kind: _chosen(kind, config, composed["choices"], changes) for kind in ("model", "workload", "corpus")}
    techniques = tuple(_named(kind="technique", config=config, changes=changes))
    if not techniques:
        raise UserError("technique: choose at least one; `technique=none` is the baseline")
    seed = _whole_number(config["seed"], "seed")
    content = {
        kind: found for kind, part in parts.items() if kind != "workload" and (found := make(kind, part).identity())
    }
    device = resolve_device(str(config["device"]))
    meters = tuple(_named(kind="meters", config=config, changes={}))
    return [
        Trial(
            parts["model"],
            techniques,
            parts["workload"],
            parts["corpus"],
            protocol,
            meters,
            device,
            seed + repeat,
            content,
        )
        for repeat in range(settings.repeats)
    ], settings


def _chosen(kind: str, config: Mapping[str, Any], choices: Mapping[str, Any], changes: Mapping[str, list[str]]) -> Any:
    return make_part(kind, str(choices.get(kind)), config[kind], changes.get(kind, []))


def _named(kind: str, config: Mapping[str, Any], changes: Mapping[str, list[str]]) -> list[Any]:
    options = config.get(kind) or {}
    if not isinstance(options, dict):
        raise UserError(f"{kind}: {options!r} is not an option; choose with {kind}=NAME")
    if "_target_" in options:
        raise UserError(f"{kind}: the option's file lacks its first line, `# @package {kind}.<its name>`")
    return [make_part(kind, name, data, changes.get(f"{kind}.{name}", [])) for name, data in options.items()]


def _changes(overrides: Sequence[str]) -> dict[str, list[str]]:
    """What the user changed, by part: `model.width=96` gives {"model": ["width=96"]}."""
    found: dict[str, list[str]] = {}
    for item in overrides:
        key, _, value = item.lstrip("+").partition("=")
        head, _, rest = key.partition(".")
        if head == "technique" and "." in rest:
            name, _, rest = rest.partition(".")
            head = f"technique.{name}"
        if rest:
            found.setdefault(head, []).append(f"{rest.removeprefix('architecture.')}={value}")
    return {head: sorted(items) for head, items in found.items()}


def _whole_number(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: give a whole number (got {value!r})")
    return value
