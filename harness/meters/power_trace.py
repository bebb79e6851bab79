"""The GPU's power fields, which of their readings are new, and the integral of a trace of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from harness.machine.gpu import nvml
from harness.meters.energy_counter import FEWEST_PERIODS

#: Power of the GPU alone; 1 would be the module with its processor, 2 the memory.
GPU_SCOPE = 0


class PowerReading(NamedTuple):
    """Watts, the field's own time stamp (microseconds), and when it was asked for (ns of a monotonic clock)."""

    at_ns: int
    stamp: int
    watts: float


def power_field(handle: Any, field: int) -> tuple[int, float] | None:
    """Stamp and watts of a power field (`NVML_FI_DEV_POWER_INSTANT`, `..._AVERAGE`); None where it is not supported.

    The plain power reading is a one-second mean on newer GPUs, and an instant one on others: it is not used.
    """
    library = nvml()
    try:
        value = library.nvmlDeviceGetFieldValues(handle, [(field, GPU_SCOPE)])[0]
    except library.NVMLError:
        return None
    if value.nvmlReturn != library.NVML_SUCCESS:
        return None
    return value.timestamp, value.value.uiVal / 1e3


def refreshed(readings: Sequence[PowerReading]) -> list[PowerReading]:
    """The readings at which the field was new: its value moved, or its stamp did.

    Stamps count only where they stand still between refreshes; a driver that stamps each question says nothing.
    """
    by_stamp = any(after.stamp == before.stamp for before, after in pairwise(readings))
    return list(readings[:1]) + [
        after
        for before, after in pairwise(readings)
        if after.watts != before.watts or (by_stamp and after.stamp != before.stamp)
    ]


def integrated_joules(trace: Sequence[PowerReading], start_ns: int, end_ns: int) -> tuple[float | None, str]:
    """Integral of refreshed readings from `start_ns` to `end_ns` by trapezoids, or None and why.

    Beyond the first and the last reading their power is held.
    """
    inside = [reading.at_ns for reading in trace if start_ns < reading.at_ns < end_ns]
    if len(inside) < FEWEST_PERIODS - 1:
        return None, f"power was refreshed {len(inside)} times in the window; {FEWEST_PERIODS - 1} are needed"
    # Relative times: nanoseconds since a distant start lose digits as floats.
    times = [(at - start_ns) / 1e9 for at in (start_ns, *inside, end_ns)]
    known = [(reading.at_ns - start_ns) / 1e9 for reading in trace]
    watts = np.interp(times, known, [reading.watts for reading in trace])
    return float(np.sum(np.diff(times) * (watts[1:] + watts[:-1]) / 2)), ""
