"""One trial from Python: composed like on the command line, run alone, its row returned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.plan.config import config_folder, to_trials
from harness.plan.hydra_entry import add_user_folder, explain
from harness.plan.overrides import force
from harness.plan.sweep import run_sweep
from harness.rows.store import Results, read_rows


def run_single(overrides: list[str], results: str) -> dict[str, Any]:
    """See `harness.run_trial`."""
    trials, settings = to_trials(composed([*overrides, f"run.results={results}"]))
    if len(trials) != 1:
        raise UserError("run_trial measures one trial; use run.repeats=1, or `harness run` for more")
    run_sweep(trials, settings)
    rows = [row for row in read_rows(Results(Path(results))).table.to_pylist() if row["trial_id"] == trials[0].id]
    return max(rows, key=lambda row: row["started_at"])


def user_folder(folder: str | None) -> list[str]:
    """Overrides by which `composed` finds options in a user's folder, as `harness run --config-dir` does."""
    if not folder:
        return []
    add_user_folder([f"--config-dir={folder}"])
    return [f"hydra.searchpath=['file://{Path(folder).resolve()}']"]


def composed(overrides: list[str]) -> dict[str, Any]:
    """One job as `harness.plan.config.to_trials` takes it, without Hydra's command line. UserError as one line."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = compose("config", overrides=[force(item) for item in overrides], return_hydra_config=True)
    except HydraException as error:
        raise UserError(explain(error)) from error
    choices = dict(config.hydra.runtime.choices)
    task = list(config.hydra.overrides.task)
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    return {"config": OmegaConf.to_container(config, resolve=True), "choices": choices, "overrides": task}
