"""Other processes on the GPU, by NVML's lists of those that hold a context on it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.machine import gpu

UNSEEN = "NVML lists no process on this GPU, not even this trial's: others cannot be seen from here"


@dataclass(frozen=True)
class Listed:
    """Processes at one moment: number to bytes held (None where NVML does not tell), and which are this trial's."""

    compute: Mapping[int, int | None]
    graphics: frozenset[int] = frozenset()
    own: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Foreign:
    """What a window shared the GPU with; `count` is None where nobody can be seen."""

    count: int | None
    pids: tuple[int, ...] = ()
    bytes: int | None = None
    note: str = ""


def listed(handle: Any) -> Listed | None:
    """The processes that hold a context now, or None where NVML does not answer."""
    library = gpu.nvml()
    try:
        compute = {item.pid: item.usedGpuMemory for item in library.nvmlDeviceGetComputeRunningProcesses(handle)}
        graphics = frozenset(item.pid for item in library.nvmlDeviceGetGraphicsRunningProcesses(handle))
    except library.NVMLError:
        return None
    return Listed(compute, graphics, frozenset(pid for pid in {*compute, *graphics} if _is_own(pid)))


def _is_own(pid: int) -> bool:
    """This process, or one of the session that it leads, as a trial does."""
    try:
        return pid == os.getpid() or os.getsid(pid) == os.getpid()
    except OSError:
        return False


def foreign(polls: Sequence[Listed]) -> Foreign:
    """Who else was there in any of `polls`, the first of which was taken at the start of the window.

    Some containers see this process under another number. Then the only process at the start is taken for this one; of
    several at the start, all but one are foreign. A graphics process that was there from the start is a desktop and
    does not count; one that came later does.
    """
    if not polls:
        return Foreign(None, note="NVML does not list the processes of this GPU")
    first = polls[0]
    seen = {pid for poll in polls for pid in poll.compute}
    drawing = {pid for poll in polls for pid in poll.graphics} - first.graphics - seen
    own = {pid for poll in polls for pid in poll.own}
    if not seen | drawing:
        return Foreign(None, note=UNSEEN)
    if own & seen or len(first.compute) <= 1:
        note = "" if own & seen else "this process is not listed under its own number"
        others = (seen | drawing) - (own or set(first.compute))
        return Foreign(len(others), tuple(sorted(others)), _most_bytes(polls, others), note)
    others = (seen | drawing) - own
    return Foreign(len(others) - 1, tuple(sorted(others)), None, "which of these processes is this trial is not known")


def _most_bytes(polls: Sequence[Listed], pids: set[int]) -> int | None:
    """The most that `pids` held together at one poll; None where NVML does not tell of one of them."""
    held = [[poll.compute[pid] for pid in pids & poll.compute.keys()] for poll in polls]
    if any(value is None for values in held for value in values):
        return None
    return max((sum(value for value in values if value is not None) for values in held), default=0)


def verdict(found: Foreign) -> list[str]:
    """A flag where the GPU was shared."""
    if not found.count:
        return []
    pids = ", ".join(map(str, found.pids))
    which = f"pid {pids}" if found.count == len(found.pids) else f"all but one of pid {pids}"
    return [f"invalid: foreign process on the GPU ({which})"]
