"""What many tests share: the command line, plain trials without running them, and one large sweep."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from harness.interfaces import Context, Technique

settings.register_profile("harness", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("harness")

#: A trial of the tiny model in a fraction of a second.
QUICK = [
    "model=tiny_llama",
    "device=cpu",
    "protocol.maximum_warmup_seconds=0.3",
    "protocol.minimum_seconds=0.05",
    "protocol.maximum_seconds=0.3",
    "corpus.maximum_bytes=400000",
]
#: Options that make each workload small; only those of the workload in use may be given.
SMALL = {
    "train_step": ["workload.budget_tokens=4096", "workload.held_out_windows=4"],
    "prefill": ["workload.prompt_tokens=64", "workload.quality_windows=4"],
    "decode": ["workload.prompt_tokens=32", "workload.new_tokens=8", "workload.quality_windows=4"],
    "generate": ["workload.prompt_tokens=32", "workload.new_tokens=8", "workload.quality_windows=4"],
    "pretrain": [
        "workload.sequence_length=64",
        "workload.batch_tokens=512",
        "workload.budget_tokens=4096",
        "workload.learning_rate=0.001",
        "workload.evaluations=2",
        "workload.held_out_windows=4",
    ],
    "attention": ["workload.sequence_length=64"],
}
#: Stacks beside the techniques alone.
STACKS = (
    "[int8,lora]",
    "[nf4,lora]",
    "[gqa,lora,gradient_checkpointing]",
    "[moe,experts_eager]",
    "[moe,experts_grouped]",
    "[moe,experts_batched]",
)
#: The tiny model trained for a moment, so that inference has a quality to report.
TRAINED = """defaults:
  - tiny_llama
  - _self_

_target_: harness.models.trained.Trained
steps: 12
"""


class Sweep:
    """A results folder, and the command line that fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"
        self.environment = {**os.environ, "COLUMNS": "400", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def without_torch(self) -> Sweep:
        """From now on no model library can be imported, so that the trials' server starts at once."""
        stubs = self.folder / "stubs"
        stubs.mkdir()
        for name in ("torch", "transformers", "peft", "torchao", "codecarbon", "safetensors"):
            (stubs / f"{name}.py").write_text("raise ImportError('there is no such library in this world')\n")
        self.environment["PYTHONPATH"] = str(stubs)
        return self

    def with_stranger(self) -> Sweep:
        """Add `own/`, a user's folder with techniques, a model and a workload; use it with `--config-dir=own`."""
        shutil.copytree(Path(__file__).parent / "stranger", self.folder / "own", dirs_exist_ok=True)
        return self

    def command(self, *arguments: str) -> list[str]:
        """The whole command line of `harness run` into this folder."""
        return [sys.executable, "-m", "harness", "run", *arguments, f"run.results={self.results}"]

    def run(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start in a process group of its own, as a shell does."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def rows(self) -> list[dict[str, Any]]:
        """Every row on disk, oldest first."""
        from harness.rows.store import Results, read_rows

        rows = read_rows(Results(self.results)).table.to_pylist()
        return sorted(rows, key=lambda row: row["started_at"])

    def processes(self) -> list[int]:
        """Processes whose environment names this results folder: trials and their server."""
        mark = f"HARNESS_SERVER_LOG={self.results.resolve()}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes() and path.parent.joinpath("stat").read_text().split(") ")[1][0] != "Z":
                    found.append(int(path.parent.name))
        return found

    def wait_for_no_process(self, seconds: float = 10.0) -> list[int]:
        """What still runs after at most `seconds`."""
        limit = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < limit:
            time.sleep(0.05)
        return left


@pytest.fixture(scope="session", autouse=True)
def _interrupts() -> None:
    """A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def new_sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Sweep]]:
    """Makes empty results folders; whatever is left running in them is ended."""
    made: list[Sweep] = []

    def make() -> Sweep:
        made.append(Sweep(tmp_path_factory.mktemp("sweep")))
        return made[-1]

    yield make
    for pid in [pid for sweep in made for pid in sweep.processes()]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def sweep(new_sweep: Callable[[], Sweep]) -> Sweep:
    """An empty results folder."""
    return new_sweep()


@pytest.fixture(scope="session")
def quick() -> Callable[..., list[str]]:
    """Overrides for a quick trial of one workload."""
    return lambda workload="decode": [*QUICK, f"workload={workload}", *SMALL[workload]]


@pytest.fixture(scope="session")
def trials_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """The trials that a command line names, without running them."""

    def find(*arguments: str) -> list[Any]:
        import harness.plan.sweep
        from harness.plan.hydra_entry import run

        found: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness.plan.sweep, "run_sweep", lambda trials, settings, name="": found.extend(trials))
            patch.setattr(sys, "path", list(sys.path))
            patch.setenv("HYDRA_FULL_ERROR", "1")
            run([*arguments, f"hydra.sweep.dir={tmp_path_factory.mktemp('hydra')}"])
        return found

    return find


@pytest.fixture(scope="session")
def context_of() -> Callable[..., Context]:
    """A trial's objects around the tiny model, nothing loaded: techniques, a workload, and changed architecture."""
    conf = Path(__file__).parents[1] / "conf"

    def make(*techniques: Technique, workload: Any = None, attention: str = "sdpa", **architecture: Any) -> Context:
        from harness.corpora.python_source import PythonSource
        from harness.models.hf import HF
        from harness.workloads.train_step import TrainStep

        shape = yaml.safe_load((conf / "model" / "tiny_llama.yaml").read_text())["architecture"]
        model = HF(architecture={**shape, **architecture}, attention=attention)
        return Context("cpu", model, workload or TrainStep(), PythonSource(maximum_bytes=400_000), techniques, seed=0)

    return make


@pytest.fixture(scope="session")
def contract(new_sweep: Callable[[], Sweep]) -> dict[tuple[str, str], dict[str, Any]]:
    """One row for every technique on every workload, on a tiny model that was trained for a moment."""
    found = new_sweep()
    write_small_options(found.folder / "own")
    conf = Path(__file__).parents[1] / "conf"
    names = [path.stem for path in sorted((conf / "technique").glob("*.yaml"))]
    techniques = [name for name in names if name != "attention_flex"]  # half a minute of compiling a trial
    done = found.run(
        "--config-dir=own",
        *QUICK[1:],
        "model=tiny_trained",
        f"technique={','.join([*techniques, *STACKS])}",
        f"workload={','.join(f'small_{workload}' for workload in SMALL)}",
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return {(row["technique"], row["workload"].removeprefix("small_")): row for row in found.rows()}


@pytest.fixture(scope="session")
def small_options() -> Callable[[Path], None]:
    """Writes a user's folder with `model=tiny_trained` and `workload=small_...`."""
    return write_small_options


def write_small_options(folder: Path) -> None:
    """A user's folder with a model that is trained for a moment, and every workload in small."""
    for group in ("model", "workload"):
        (folder / group).mkdir(parents=True)
    (folder / "model" / "tiny_trained.yaml").write_text(TRAINED)
    for workload, options in SMALL.items():
        lines = [item.removeprefix("workload.").replace("=", ": ") for item in options]
        text = "\n".join(["defaults:", f"  - {workload}", "  - _self_", "", *lines, ""])
        (folder / "workload" / f"small_{workload}.yaml").write_text(text)
