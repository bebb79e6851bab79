"""Facts of the machine and its software, read without torch; unknown is None."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.machine.gpu import gpu_count, gpu_facts, gpu_name
from harness.machine.host import REASONS, host_facts

#: Versions of these decide whether an old row still stands for today's software.
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "torchao",
    "accelerate",
    "bitsandbytes",
    "hqq",
    "triton",
    "numpy",
)


def resolve_device(name: str) -> str:
    """`auto` becomes `cuda` where a GPU answers, else `cpu`; UserError for anything else unknown."""
    if name == "auto":
        return "cuda" if gpu_count() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"device: {name!r} is not known; use auto, cpu or cuda")
    if name == "cuda" and not gpu_count():
        raise UserError("device: cuda was asked for, but no NVIDIA GPU answers here; use device=cpu")
    return name


def versions() -> dict[str, str]:
    """Installed versions of PACKAGES and of this program; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in ("efficiency-harness", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_revision() -> str:
    """Hash of this package's own sources: what an edit changes and a new clone does not."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        if "report" not in path.relative_to(root).parts:  # how rows are shown does not change them
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def git_revision() -> str | None:
    """The checkout's commit, with `+dirty` after uncommitted changes; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        return head[:12] + ("+dirty" if _git(root, "status", "--porcelain", "--", "harness", "conf") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    # Without its optional lock: a trial that is killed while git runs would leave the user's repository locked.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def device_name(device: str) -> str:
    """The part that is measured: the GPU's name by NVML, or the processor's."""
    if device == "cuda":
        return gpu_name()
    return cpu_model()


@cache
def cpu_model() -> str:
    """Processor model by the kernel, with the number of cores this process may use."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model} ({usable_cores()} cores)"


def usable_cores() -> int:
    """Cores that the scheduler may give this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_facts(device: str) -> dict[str, Any]:
    """What identifies the machine and decides how its numbers may be read; `reasons` says why a fact is None."""
    facts = {"cpu_model": cpu_model(), "usable_core_count": usable_cores(), **host_facts()}
    reasons = {name: REASONS[name] for name, value in facts.items() if value is None}
    if device != "cuda":
        return {**facts, "reasons": {**reasons, "gpu": "measured on the processor"}}
    gpu = gpu_facts()
    reasons |= {f"gpu.{name}": "the driver does not tell" for name, value in gpu.items() if value is None}
    return {**facts, "gpu": gpu, "reasons": reasons}
