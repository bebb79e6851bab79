"""The process of one trial: takes `spec.json` from a folder and leaves `row.json` there, whole or not at all."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

#: Names the folder of this machine's measured roofs to a trial's meters; it lies beside the cache.
ROOFS_VARIABLE = "HARNESS_ROOFS"


def main(folder: str, own_group: bool = True) -> None:
    """Do the folder's job; the process ends with it."""
    place = Path(folder)
    _become_leader(own_group)
    _redirect_output(place / "output.txt")
    spec = json.loads((place / "spec.json").read_text())
    sys.path[:0] = [path for path in spec["python_path"] if path not in sys.path]
    os.environ[ROOFS_VARIABLE] = str(Path(spec["cache"]).parent / "roofs")
    os.environ.update(spec["environment"])
    answer = JOBS[spec["job"]](spec)
    write_whole(place / "row.json", json.dumps(answer, default=str))


def _measure(spec: dict[str, Any]) -> dict[str, Any]:
    from harness.run.execute import execute
    from harness.trial import Trial

    started = time.perf_counter()
    row = execute(Trial.from_dict(spec["trial"]), spec["cache"])
    return {**row, "worker_seconds": time.perf_counter() - started}


def _prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Make what a model needs before it can load."""
    from harness.plan.building import make_context
    from harness.trial import Trial

    context = make_context(Trial.from_dict(spec["trial"]), spec["cache"])
    context.model.make_ingredients(context)
    return {}


def _check(spec: dict[str, Any]) -> dict[str, Any]:
    """What is wrong with each trial (None when nothing), what each needs made beforehand, and what meters ask once."""
    from harness.plan.building import make, make_context, skip_reason
    from harness.trial import Trial

    wrong: list[str | None] = []
    needs: list[Any] = []
    known: dict[str, str | None] = {}
    trials = [Trial.from_dict(data) for data in spec["trials"]]
    for trial in trials:
        context = make_context(trial, spec["cache"])
        if skip_reason(context, [part.name for part in trial.techniques]):
            wrong.append(None)
            needs.append(None)
            continue
        key = repr((trial.model, trial.techniques, trial.corpus))
        if key not in known:
            known[key] = _fault(context)
        wrong.append(known[key])
        needs.append(context.model.ingredients(context) if known[key] is None else None)
    meters = {part.target: make("meters", part) for trial in trials for part in trial.meters}
    return {
        "wrong": wrong,
        "needs": needs,
        "environment": {k: v for m in meters.values() for k, v in m.once().items()},
        "fork_has_gpu": _fork_has_gpu(),
    }


def _fork_has_gpu() -> bool:
    """Whether CUDA still works in a fork: not when a library initialised it in the server, at its import."""
    torch = sys.modules.get("torch")
    return torch is None or not torch.cuda._is_in_bad_fork()


def _fault(context: Any) -> str | None:
    try:
        context.corpus.check()
        context.model.check(context)
    except (ValueError, TypeError, OSError) as error:
        return " ".join(str(error).split())
    return None


JOBS = {"measure": _measure, "prepare": _prepare, "check": _check}


def write_whole(path: Path, text: str) -> None:
    """Write beside `path` and rename, so that a reader finds all of it or nothing."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _become_leader(own_group: bool) -> None:
    """Lead a process group, so that a time-out takes everything the trial started; die with the parent."""
    if own_group:
        os.setsid()
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    # A fork's parent is the server, which outlives a killed sweep as long as a fork holds its pipe.
    sweep = multiprocessing.parent_process()
    if sweep is not None:
        threading.Thread(target=_die_with, args=(sweep.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    wait([sentinel])
    os.killpg(0, signal.SIGKILL)


def _redirect_output(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    main(sys.argv[1], own_group=False)
