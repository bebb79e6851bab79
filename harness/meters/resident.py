"""Resident host memory of this process and its children by the kernel's own accounting."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

#: Whether writing to clear_refs works here, once it has been tried.
PEAK_RESETS: dict[str, bool] = {}


def reset_peak() -> bool:
    """Set the kernel's high-water mark back to what is resident now (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        PEAK_RESETS["works"] = True
    except OSError:
        PEAK_RESETS["works"] = False
    return PEAK_RESETS["works"]


def status_bytes(key: str, pid: int | str = "self") -> int | None:
    """A size of `/proc/PID/status` (VmRSS, VmHWM), or None where the kernel does not tell."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def resident_bytes() -> int | None:
    """What is resident now."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def children_peak_bytes(own_peak_bytes: int) -> int | str:
    """The largest high-water mark of one child process, or why there is none.

    Living children and theirs tell their own; of those that ended and were waited for the kernel keeps the largest
    (getrusage(2), RUSAGE_CHILDREN), however short it lasted. A program inherits the mark of the process that starts it
    (Linux, exec_mmap), so a mark up to `own_peak_bytes`, the highest that this process ever had, says nothing.
    """
    living = list(_descendants(os.getpid()))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    known = [mark for pid in living if (mark := status_bytes("VmHWM", pid)) is not None]
    if ended > own_peak_bytes:
        known.append(ended)
    if known:
        return max(known)
    if ended:
        return f"no child that ended held more than the {own_peak_bytes:,} bytes whose mark it inherited at its start"
    return "a child ended and nobody waited for it" if living else "no child process"


def _descendants(pid: int | str) -> Iterator[str]:
    try:
        lists = [task.joinpath("children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # it has ended, or this kernel keeps no such list
        return
    for child in " ".join(lists).split():
        yield child
        yield from _descendants(child)
