"""Hydra's composed configurations become trials: the planning side's only meeting with Hydra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.interfaces import Model, moments
from harness.machine.environment import resolve_device
from harness.plan.building import build, make, make_part, nearest
from harness.plan.settings import Settings
from harness.protocol import Protocol
from harness.trial import MATCHES, Part, Trial

GROUPS = ("model", "technique", "workload", "corpus", "protocol", "meters", "sweep")
KEYS = ("model", "technique", "workload", "corpus", "protocol", "meters", "match", "device", "seed", "run")


def config_folder() -> Path:
    """`conf/`, inside an installed package or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


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
    match = _match(str(config["match"]), parts["model"], techniques)
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
            match,
        )
        for repeat in range(settings.repeats)
    ], settings


def _match(match: str, model: Part, techniques: Sequence[Part]) -> str:
    """What to match: nothing where no technique changes the architecture, so that a baseline stays one trial."""
    if match not in MATCHES:
        raise UserError(f"match: {match!r} cannot be matched.{nearest(match, MATCHES)} Use one of {', '.join(MATCHES)}")
    if match == "none" or not any("configure" in moments(make("technique", part)) for part in techniques):
        return "none"
    if type(make("model", model)).matching is Model.matching:
        raise UserError(f"match: the class of model {model.name!r} has no `matching`; use match=none")
    return match


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
