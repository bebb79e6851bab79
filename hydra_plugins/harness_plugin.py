"""Hydra finds its plugins in this namespace package; what they do lives in `harness.plan.sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher


class HarnessSweeper(BasicSweeper):
    """The basic sweeper, except that the command line wins over a named sweep and that the launcher does the checks."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the product of a named sweep's choices and the command line's."""
        given = {argument.lstrip("+~").partition("=")[0] for argument in arguments}
        self.params = {key: value for key, value in (self.params or {}).items() if key not in given}
        return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Any) -> None:
        """Nothing: see the class."""


class HarnessLauncher(Launcher):
    """Hands the whole batch to the harness, which checks it, leaves out what is measured, orders it and runs it."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Remember what Hydra gives; nothing starts here."""
        self.config_loader = hydra_context.config_loader
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Run all jobs of the batch."""
        from harness.plan.sweep import launch

        launch(self.config_loader, self.config, [list(job) for job in job_overrides])
        return []


ConfigStore.instance().store(
    group="hydra/launcher",
    name="harness",
    node={"_target_": "hydra_plugins.harness_plugin.HarnessLauncher"},
    provider="harness",
)
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="harness",
    node={
        "_target_": "hydra_plugins.harness_plugin.HarnessSweeper",
        "max_batch_size": None,
        "params": None,
    },
    provider="harness",
)
