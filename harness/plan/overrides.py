"""Hydra's part of planning: command-line overrides become plain configurations, one for each job."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from harness.errors import UserError
from harness.plan.building import nearest
from harness.plan.config import GROUPS


def compose_all(loader: Any, jobs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The plain configuration of every job; on all cores, because Hydra takes tens of milliseconds for each."""
    global _loader
    _loader = loader
    _check_technique_options(jobs)
    if len(jobs) < 8:
        return [_compose(job) for job in jobs]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        return list(pool.map(_compose, jobs, chunksize=4))


# Set before the pool forks, so that its workers inherit it: it cannot be pickled.
_loader: Any = None


def _compose(job: Sequence[str]) -> dict[str, Any]:
    """One job by Hydra's own rules, without Hydra's own settings, which are most of the work and not the trial's."""
    from hydra._internal.defaults_list import create_defaults_list
    from omegaconf import OmegaConf

    overrides = adapt(job)
    parsed, repository = _loader._parse_overrides_and_create_caching_repo("trial", overrides)
    defaults = create_defaults_list(
        repo=repository, config_name="trial", overrides_list=parsed, prepend_hydra=False, skip_missing=False
    )
    config = _loader._compose_config_from_defaults_list(defaults=defaults.defaults, repo=repository)
    config.pop("hydra", None)  # a named sweep's choices are its jobs by now
    OmegaConf.set_struct(config, True)
    _loader._apply_overrides_to_config(defaults.config_overrides, config)
    plain = OmegaConf.to_container(config, resolve=True)
    return {"config": plain, "choices": dict(defaults.overrides.known_choices), "overrides": overrides}


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
