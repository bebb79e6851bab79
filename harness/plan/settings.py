"""What a user sets that does not change what is measured: where results go, time limits, order, repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Carries the command as it was typed to the rows, past Hydra, which changes `sys.argv`.
COMMAND_VARIABLE = "HARNESS_COMMAND"


@dataclass(frozen=True)
class Settings:
    """The `run` section of the configuration."""

    results: str = "results"
    #: A trial that takes longer is stopped with everything it started, and becomes a `timeout` row.
    timeout_seconds: float = 900.0
    #: What to measure again although a row exists: nothing, failed rows, rows of other versions, or everything.
    rerun: Literal["missing", "failed", "stale", "all"] = "missing"
    #: Fresh processes per configuration; repeat r uses seed + r.
    repeats: int = 1
    order: Literal["randomized", "given"] = "randomized"
    order_seed: int = 0
    #: `fork`: each trial is a fork of one server that has the libraries loaded. `spawn`: a fresh interpreter.
    isolation: Literal["fork", "spawn"] = "fork"
    #: With `spawn`: the interpreter, container or launcher to start the worker with, before `-m harness.run.worker`.
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError("repeats must be at least 1")
        if self.timeout_seconds <= 0:
            raise ValueError("timeout_seconds must be above 0")
        if self.command and self.isolation != "spawn":
            raise ValueError("command needs isolation=spawn")
