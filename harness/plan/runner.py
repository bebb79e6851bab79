"""Processes for jobs: a fork of a preloaded server, or a fresh interpreter; parent and child meet in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from harness.plan.settings import Settings
from harness.run.worker import main as worker_main
from harness.run.worker import write_whole

#: Set before the server starts, because its forks inherit them.
SERVER_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # torch then asks NVML whether there is a GPU, which does not spoil the server for forking.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


@dataclass(frozen=True)
class Finished:
    """How a job ended: its answer, or why there is none."""

    answer: dict[str, Any] | None
    status: str
    reason: str
    seconds: float


class Runner:
    """Starts one process for each job and waits without using the processor."""

    def __init__(self, settings: Settings, server_log: Path) -> None:
        self.settings = settings
        os.environ["HARNESS_SERVER_LOG"] = str(server_log.resolve())
        self.context = get_context("forkserver")
        self.context.set_forkserver_preload(["harness.run.preload"])
        for name, value in SERVER_ENVIRONMENT.items():
            os.environ.setdefault(name, value)

    def run(self, folder: Path, spec: Mapping[str, Any], timeout_seconds: float) -> Finished:
        """Do the job of `spec` in `folder`. An interrupt ends the child before it is passed on."""
        folder.mkdir(parents=True, exist_ok=True)
        complete = {"python_path": [path for path in sys.path if path], "environment": {}, **spec}
        write_whole(folder / "spec.json", json.dumps(complete))
        started = time.perf_counter()
        process = self._start(folder)
        try:
            ended = wait([process.sentinel], timeout_seconds)
        except BaseException:
            _kill_group(process.pid)
            raise
        if not ended:
            _kill_group(process.pid)
        code = process.join()
        return _finish(folder, code, bool(ended), time.perf_counter() - started, timeout_seconds)

    def _start(self, folder: Path) -> _Process:
        if self.settings.isolation == "spawn":
            return _Process.spawned(
                [*(self.settings.command or (sys.executable,)), "-m", "harness.run.worker", str(folder)]
            )
        process = self.context.Process(target=worker_main, args=(str(folder),), daemon=True)
        with _hidden_main():
            process.start()
        assert process.pid is not None
        return _Process(process.pid, process.sentinel, lambda: _joined(process))


@dataclass(frozen=True)
class _Process:
    """A started child: what to wait on and how to collect its exit code."""

    pid: int
    sentinel: int
    join: Any

    @classmethod
    def spawned(cls, command: list[str]) -> _Process:
        # The write end lives only in the child, so the read end wakes when the child and all it started are gone.
        reader, writer = os.pipe()
        child = subprocess.Popen(command, pass_fds=(writer,), start_new_session=True, stdin=subprocess.DEVNULL)
        os.close(writer)

        def join() -> int:
            code = child.wait()
            os.close(reader)
            return code

        return cls(child.pid, reader, join)


def _joined(process: Any) -> int:
    process.join()
    return process.exitcode


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """multiprocessing would import the caller's script again in each child: hide it while one starts."""
    real = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = real


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # a child that is only starting does not lead its group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _finish(folder: Path, code: int, ended: bool, seconds: float, timeout_seconds: float) -> Finished:
    path = folder / "row.json"
    if path.exists():  # whole by construction, even when the process died after writing it
        answer = json.loads(path.read_text())
        return Finished(answer, str(answer.get("status", "ok")), str(answer.get("reason") or ""), seconds)
    log = folder / "output.txt"
    if not ended:
        reason = f"stopped after {timeout_seconds:g} s (run.timeout_seconds); see {log}"
        return Finished(None, "timeout", reason, seconds)
    return Finished(None, "crash", f"{_death(code, log)}; see {log}", seconds)


def _death(code: int, log: Path) -> str:
    if code >= 0:
        said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        last = f" ({said[-1].strip()[:200]})" if said else ""
        return f"the process ended with exit code {code} and left no row{last}"
    name = signal.Signals(-code).name
    hint = " (the kernel does this when host memory runs out)" if name == "SIGKILL" else ""
    return f"the process was ended by {name}{hint}"
