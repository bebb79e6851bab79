"""A sweep seen whole: check everything, leave out what is measured, order, run, store."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.plan.building import make_context
from harness.plan.config import to_trials
from harness.plan.overrides import compose_all
from harness.plan.progress import Progress
from harness.plan.resume import Plan, plan, recover
from harness.plan.runner import Runner
from harness.plan.settings import COMMAND_VARIABLE, Settings
from harness.rows.store import Results, locked, write_row
from harness.run.execute import describe
from harness.run.worker import write_whole
from harness.trial import Trial

#: Limit of what happens once before the trials: checking them, and making weights.
PREPARATION_SECONDS = 3600.0


def launch(loader: Any, master: Any, jobs: Sequence[Sequence[str]]) -> None:
    """Run a batch of Hydra jobs."""
    trials: dict[str, Trial] = {}
    settings = Settings()
    for composed in compose_all(loader, jobs):
        found, settings = to_trials(composed)
        trials |= {trial.id: trial for trial in found}
    run_sweep(list(trials.values()), settings, str(master.hydra.runtime.choices["sweep"]))


def run_sweep(trials: Sequence[Trial], settings: Settings, name: str = "") -> list[dict[str, Any]]:
    """Measure every trial that has no row yet; return the new rows. UserError before the first if one is invalid."""
    results = Results(Path(settings.results))
    with locked(results):
        recovered = recover(results)
        todo = plan(results, trials, settings)
        _announce(todo, recovered, len(trials))
        if not todo.run:
            return []
        return _run_all(results, todo.run, settings, name)


def _run_all(results: Results, trials: Sequence[Trial], settings: Settings, name: str) -> list[dict[str, Any]]:
    runner = Runner(settings, results.logs / "server.txt")
    with Progress(len(trials)) as progress:
        progress.say("loading libraries and checking the sweep")
        checked = _check(results, runner, trials, settings)
        if settings.isolation == "fork" and not checked["fork_has_gpu"]:
            progress.say("a library here starts CUDA when it is imported: each trial loads its libraries anew (slower)")
            runner = Runner(replace(settings, isolation="spawn"), results.logs / "server.txt")
        for trial in checked["needs"].values():
            progress.say(f"preparing the weights of {trial.model.label} with {trial.technique_label}")
            _prepare(results, runner, trial, settings, checked["environment"])
        rows = []
        for index, (block, trial) in enumerate(order(trials, settings)):
            progress.begin(trial.label)
            row = _run_one(
                results,
                runner,
                trial,
                settings,
                checked["environment"],
                {"order_index": index, "block": block, "sweep": name},
            )
            progress.end(trial.label, row)
            rows.append(row)
    return rows


def _check(results: Results, runner: Runner, trials: Sequence[Trial], settings: Settings) -> dict[str, Any]:
    """Every trial by a process that has the libraries: what cannot exist stops the sweep before its first trial."""
    folder = results.logs / "check"
    spec = {"job": "check", "trials": [trial.to_dict() for trial in trials], "cache": str(results.cache.resolve())}
    finished = runner.run(folder, spec, PREPARATION_SECONDS)
    if finished.answer is None:
        raise UserError(f"the sweep could not be checked: {finished.reason}")
    (folder / "row.json").unlink()
    for trial, wrong in zip(trials, finished.answer["wrong"], strict=True):
        if wrong:
            raise UserError(f"{trial.model.label} with {trial.technique_label}: {wrong}")
    needs = {}
    for trial, need in zip(trials, finished.answer["needs"], strict=True):
        if need:
            needs.setdefault(json.dumps(need, sort_keys=True, default=str), trial)
    return {**finished.answer, "needs": needs}


def _prepare(results: Results, runner: Runner, trial: Trial, settings: Settings, variables: dict[str, str]) -> None:
    folder = results.logs / "prepare"
    spec = {"job": "prepare", "trial": trial.to_dict(), "cache": str(results.cache.resolve()), "environment": variables}
    finished = runner.run(folder, spec, PREPARATION_SECONDS)
    if finished.answer is None:
        raise UserError(
            f"{trial.label}: its weights could not be made ({finished.reason}); see {folder / 'output.txt'}"
        )
    (folder / "row.json").unlink()


def _run_one(
    results: Results, runner: Runner, trial: Trial, settings: Settings, variables: dict[str, str], place: dict[str, Any]
) -> dict[str, Any]:
    started = datetime.now(UTC)
    row_id = f"{started:%Y%m%dT%H%M%S%f}-{trial.id}"
    folder = results.logs / row_id
    parent = {
        **place,
        "row_id": row_id,
        "started_at": started.isoformat(),
        "command": os.environ.get(COMMAND_VARIABLE, "from Python"),
        "log": str(folder / "output.txt"),
    }
    folder.mkdir(parents=True)
    write_whole(folder / "parent.json", json.dumps(parent))
    spec = {"job": "measure", "trial": trial.to_dict(), "cache": str(results.cache.resolve()), "environment": variables}
    finished = runner.run(folder, spec, settings.timeout_seconds)
    own = finished.answer
    if own is None:
        described = describe(trial, make_context(trial, str(results.cache)))
        own = {**described, "status": finished.status, "reason": finished.reason}
    row = {**own, **parent, "trial_seconds": finished.seconds}
    write_row(results, row)
    (folder / "row.json").unlink(missing_ok=True)
    return row


def order(trials: Iterable[Trial], settings: Settings) -> list[tuple[int, Trial]]:
    """Blocks of one repeat of everything, shuffled within: drift then falls on all techniques alike."""
    blocks: dict[int, list[Trial]] = {}
    seen: dict[str, int] = {}
    for trial in trials:
        block = seen[trial.config_id] = seen.get(trial.config_id, -1) + 1
        blocks.setdefault(block, []).append(trial)
    shuffle = random.Random(settings.order_seed).shuffle if settings.order == "randomized" else lambda block: None
    for block in blocks.values():
        shuffle(block)
    return [(number, trial) for number, block in sorted(blocks.items()) for trial in block]


def _announce(todo: Plan, recovered: int, total: int) -> None:
    lines = list(todo.unreadable)
    if recovered:
        lines.append(f"{recovered} finished row(s) of an interrupted sweep were stored")
    if todo.measured:
        failed = f", {todo.failed} of them failed (run.rerun=failed tries those again)" if todo.failed else ""
        lines.append(f"{todo.measured} of {total} trials have a row already{failed}")
    lines += [
        f"{count} kept row(s) were measured with other software: {change}" for change, count in todo.stale.items()
    ]
    if todo.stale:
        lines.append("run.rerun=stale measures them again")
    if not todo.run:
        lines.append("nothing to run")
    for line in lines:
        print(line, file=sys.stderr)
