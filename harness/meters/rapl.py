"""The processor package's energy by the kernel's RAPL files, where they are readable."""

from __future__ import annotations

from pathlib import Path

RAPL = Path("/sys/class/powercap/intel-rapl:0")


#: The usual cause of an unreadable counter.
ABSENT = "RAPL is not readable (it needs root, and no virtual machine)"


def microjoules() -> int | None:
    try:
        return int((RAPL / "energy_uj").read_text())
    except (OSError, ValueError):
        return None
