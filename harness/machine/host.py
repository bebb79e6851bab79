"""What the host's kernel says of itself: limits, placement, clocks, virtualisation. Null where it says nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

#: Why a fact of `host_facts` may be null; a fact without an entry here always has a value.
REASONS = {
    "memory_total_bytes": "this kernel has no /proc/meminfo",
    "memory_available_bytes": "this kernel has no /proc/meminfo",
    "swap_total_bytes": "this kernel has no /proc/meminfo",
    "load_average": "this kernel keeps no load average",
    "cpu_affinity": "this kernel has no /proc/self/status",
    "cpu_governor": "the kernel shows no frequency scaling, as usual in a virtual machine",
    "cpu_frequency_hertz": "the kernel shows no clock of the processor",
    "cpu_frequency_maximum_hertz": "the kernel shows no frequency scaling, as usual in a virtual machine",
    "cpu_threads_per_core": "the kernel shows no topology of the processor",
    "cpu_threads_per_socket": "the kernel shows no topology of the processor",
    "numa_nodes": "the kernel shows no memory nodes",
    "numa_memory_nodes": "this kernel has no /proc/self/status",
    "cgroup_memory_limit": "no control group limits memory, or its files cannot be read",
    "cgroup_cpu_limit": "no control group limits processor time, or its files cannot be read",
    "container": "no sign of a container was seen",
    "machine_product": "the firmware's names cannot be read, as usual in a container",
    "transparent_huge_pages": "the kernel does not tell",
    "address_space_randomization": "the kernel does not tell",
    "cooling": "no interface tells how the machine is cooled",
    "network": "a trial runs on one machine and uses no network",
}
#: Beginnings of environment variables that change what a library computes or how fast; none may hold a secret.
VARIABLES = tuple(
    "ACCELERATE_ BNB_ CUBLAS_ CUDA_ CUDNN_ GLIBC_TUNABLES GOMP_ HF_HUB_OFFLINE KMP_ LD_PRELOAD MALLOC_ MKL_ NCCL_ "
    "NUMEXPR_ NVIDIA_TF32 NVIDIA_VISIBLE_DEVICES OMP_ OPENBLAS_ PYTHONHASHSEED PYTHONMALLOC PYTHONOPTIMIZE PYTORCH_ "
    "TOKENIZERS_PARALLELISM TORCH TRANSFORMERS_OFFLINE TRITON_ VECLIB_".split()
)


def host_facts() -> dict[str, Any]:
    """Facts by name; `REASONS` says why one may be None."""
    memory, status = _fields("/proc/meminfo"), _fields("/proc/self/status")
    frequency = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    topology = Path("/sys/devices/system/cpu/cpu0/topology")
    return {
        "host_name": platform.node(),
        "operating_system": platform.platform(),
        "python_executable": sys.executable,
        "cpu_count": os.cpu_count(),
        "cpu_affinity": status.get("Cpus_allowed_list"),
        "cpu_threads_per_core": _listed(_read(topology / "thread_siblings_list")),
        "cpu_threads_per_socket": _listed(_read(topology / "core_siblings_list")),
        "cpu_governor": _read(frequency / "scaling_governor"),
        "cpu_frequency_hertz": _scaled(_read(frequency / "scaling_cur_freq"), 1e3) or _reported_clock(),
        "cpu_frequency_maximum_hertz": _scaled(_read(frequency / "cpuinfo_max_freq"), 1e3),
        "numa_nodes": _read("/sys/devices/system/node/online"),
        "numa_memory_nodes": status.get("Mems_allowed_list"),
        "load_average": _load_average(),
        "memory_total_bytes": _scaled(memory.get("MemTotal"), 1024),
        "memory_available_bytes": _scaled(memory.get("MemAvailable"), 1024),
        "swap_total_bytes": _scaled(memory.get("SwapTotal"), 1024),
        "transparent_huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "address_space_randomization": _read("/proc/sys/kernel/randomize_va_space"),
        "cgroup_memory_limit": _cgroup("memory", "memory.max", "memory.limit_in_bytes"),
        "cgroup_cpu_limit": _cgroup("cpu", "cpu.max", "cpu.cfs_quota_us"),
        "virtual_machine": "hypervisor" in _first_line("/proc/cpuinfo", "flags"),
        "machine_product": _read("/sys/class/dmi/id/product_name"),
        "container": container(),
        "cooling": None,
        "network": None,
        "packages_sha256": packages()[1],
        "accelerator_packages": [name for name in packages()[0] if name.startswith(("nvidia_", "triton"))],
        "environment_variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
    }


def container() -> str | None:
    """The kind of container this process runs in, or None where no sign of one is seen."""
    signs = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
    # systemd's word for it is lower-case.
    named = os.environ.get("container") or ("kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None)  # noqa: SIM112
    return named or next((kind for path, kind in signs.items() if Path(path).exists()), None)


@cache
def packages() -> tuple[list[str], str]:
    """`name-version` of every installed distribution, and a SHA-256 over all of them: equal where all packages are.

    Read from the names of folders: opening each distribution's metadata takes a hundred times as long.
    """
    folders = {Path(entry) for entry in sys.path if entry.endswith("-packages")}
    found = {path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.dist-info")}
    return sorted(found), hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def _cgroup(controller: str, *names: str) -> str | None:
    """A limit of the control group nearest to this process whose files are there, as the kernel writes it."""
    groups = [line.split(":", 2) for line in (_read("/proc/self/cgroup") or "").splitlines()]
    for _, controllers, path in groups:
        if controllers and controller not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup", controllers and controller)
        for folder in (root / path.lstrip("/"), root):
            for name in names:
                if text := _read(folder / name):
                    return text
    return None


def _reported_clock() -> float | None:
    line = _first_line("/proc/cpuinfo", "cpu MHz")
    return float(line.partition(":")[2]) * 1e6 if line else None


def _load_average() -> list[float] | None:
    try:
        return list(os.getloadavg())
    except OSError:
        return None


def _listed(text: str | None) -> int | None:
    """How many numbers `0-3,8` lists."""
    if not text:
        return None
    ends = [part.split("-") for part in text.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def _scaled(text: str | None, factor: float) -> float | None:
    return int(text.split()[0]) * factor if text else None


def _fields(path: str) -> dict[str, str]:
    """`name: value` lines of a file; empty where there is none."""
    lines = [line.partition(":") for line in (_read(path) or "").splitlines()]
    return {name: value.strip() for name, _, value in lines}


def _first_line(path: str, start: str) -> str:
    try:
        with open(path) as file:
            return next((line for line in file if line.startswith(start)), "")
    except OSError:
        return ""


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
