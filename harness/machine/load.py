"""The kernel's accounting of the processor: this process's share, the whole machine's, and what others took."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from harness.machine.environment import usable_cores

#: Above this share of processor time for others, the machine was not quiet.
QUIET_RATIO = 0.05


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment; `ticks` are the machine's since it started, empty where the kernel tells none."""

    process_seconds: float
    wall_seconds: float
    ticks: dict[str, int]


@dataclass(frozen=True)
class Load:
    """Shares between two snapshots; None where the time between them was shorter than a tick."""

    cpu_busy_ratio: float
    machine_busy_ratio: float | None
    others_busy_ratio: float | None
    steal_ratio: float | None

    @property
    def quiet(self) -> str:
        """Whether the machine was this process's alone: others on two cores can slow a step several times over."""
        taken = max(self.others_busy_ratio or 0.0, self.steal_ratio or 0.0)
        return "quiet" if taken <= QUIET_RATIO else f"not quiet: others took {taken:.0%} of the processor"


def snapshot() -> Snapshot:
    """The counters now."""
    return Snapshot(time.process_time(), time.perf_counter(), machine_ticks())


def between(before: Snapshot, after: Snapshot) -> Load:
    """What the processor did from `before` to `after`."""
    wall = after.wall_seconds - before.wall_seconds
    own = after.process_seconds - before.process_seconds
    spent = {name: after.ticks.get(name, 0) - ticks for name, ticks in before.ticks.items()}
    total = sum(spent.values())
    busy = own / (wall * usable_cores())
    if not total:
        return Load(busy, None, None, None)
    machine = 1 - (spent["idle"] + spent["iowait"]) / total
    others = max(0.0, machine - own / (wall * (os.cpu_count() or 1)))
    return Load(busy, machine, others, spent.get("steal", 0) / total)


def machine_ticks() -> dict[str, int]:
    """Processor time of the whole machine since it started, by kind, in ticks; empty where the kernel tells none."""
    try:
        with open("/proc/stat") as file:
            parts = file.readline().split()[1:9]
    except OSError:
        return {}
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    return dict(zip(names, map(int, parts), strict=False))
