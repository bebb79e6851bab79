"""Resident host memory of this process by the kernel's own accounting."""

from __future__ import annotations

import os
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


def status_bytes(key: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def resident_bytes() -> int | None:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
