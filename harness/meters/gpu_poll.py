"""One reading of a GPU's temperature, clocks, clock events and processes, by NVML."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from harness.machine import gpu
from harness.meters.gpu_processes import Listed, listed


@dataclass(frozen=True)
class Poll:
    """None is what NVML did not give. `seconds` is what the poll itself took."""

    temperature_celsius: float | None
    memory_temperature_celsius: float | None
    sm_clock_hertz: float | None
    memory_clock_hertz: float | None
    events: int | None
    processes: Listed | None
    seconds: float


def poll(handle: Any) -> Poll:
    """Read everything now."""
    library, begun = gpu.nvml(), time.perf_counter()
    return Poll(
        temperature_celsius=ask(library.nvmlDeviceGetTemperature, handle, library.NVML_TEMPERATURE_GPU),
        memory_temperature_celsius=_memory_temperature(handle),
        sm_clock_hertz=_hertz(ask(library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_SM)),
        memory_clock_hertz=_hertz(ask(library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_MEM)),
        events=ask(library.nvmlDeviceGetCurrentClocksEventReasons, handle),
        processes=listed(handle),
        seconds=time.perf_counter() - begun,
    )


def default_sm_clock_hertz(handle: Any) -> float | None:
    """The multiprocessor clock that the part runs at where nothing holds it down, by its own default."""
    library = gpu.nvml()
    return _hertz(ask(library.nvmlDeviceGetDefaultApplicationsClock, handle, library.NVML_CLOCK_SM))


def ask(function: Any, *arguments: Any) -> Any:
    """NVML's answer, or None where it has none: not every part has every sensor."""
    try:
        return function(*arguments)
    except gpu.nvml().NVMLError:
        return None


def _hertz(megahertz: float | None) -> float | None:
    return megahertz * 1e6 if megahertz else None


def _memory_temperature(handle: Any) -> float | None:
    library = gpu.nvml()
    answers = ask(library.nvmlDeviceGetFieldValues, handle, [library.NVML_FI_DEV_MEMORY_TEMP])
    if not answers or answers[0].nvmlReturn != library.NVML_SUCCESS:
        return None
    return float(answers[0].value.uiVal)
