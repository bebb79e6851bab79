"""Why a GPU's clocks were lowered: NVML's bit mask of the moment, and its counters of all time, which miss nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.machine import gpu

#: Bits of nvmlDeviceGetCurrentClocksEventReasons (NVML reference, NvmlClocksEventReasons).
EVENTS = {
    0x1: "idle",
    0x2: "applications clocks setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks setting",
    0x200: "board limit",
    0x400: "reliability",
}
#: A measurement under one of these is of a part in distress. A power cap is how a part normally runs.
INVALID = ("hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake")
#: The events that have a counter. Hardware slowdown has none of its own: it is seen by polling only, where it is
#: neither of the last two (NVML reference: power drawn so fast that the protection lowers the clocks).
COUNTED = ("software power cap", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake")


def names(mask: int) -> list[str]:
    """The events of a mask; a bit that is not known is named by its number."""
    bits = [1 << index for index in range(mask.bit_length()) if mask >> index & 1]
    return [EVENTS.get(bit, f"bit {bit:#x}") for bit in bits]


def field_numbers(driver: str) -> list[int]:
    """NVML's field numbers of COUNTED, in order. They belong to the driver and not to the library that asks.

    Drivers from 575 up to 580.82 number the three slowdowns 251 to 253, where all others number a setting of power
    smoothing (NVIDIA's own nvidia-ml-py 13.580.65 against 13.580.82 and 12.570.172).
    """
    version = tuple(int(part) for part in driver.split(".")[:2])
    first = 251 if (575, 0) <= version < (580, 82) else 269
    return [74, first, first + 1, first + 2]


def counters(handle: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds that each event has lasted since the driver was loaded, or why that is not known.

    The unit is the nanosecond: NVML says so of the same counters as nvmlViolationTime_t, DCGM by the names of its
    fields (DCGM_FI_DEV_CLOCKS_EVENT_REASON_..._NS).
    """
    library = gpu.nvml()
    try:
        answers = library.nvmlDeviceGetFieldValues(handle, field_numbers(library.nvmlSystemGetDriverVersion()))
    except library.NVMLError as error:
        return {}, dict.fromkeys(COUNTED, f"NVML answers {error}")
    known: dict[str, float] = {}
    unknown: dict[str, str] = {}
    for event, answer in zip(COUNTED, answers, strict=True):
        if answer.nvmlReturn != library.NVML_SUCCESS:
            unknown[event] = f"NVML has no counter of the {event} here (error {answer.nvmlReturn})"
        elif answer.valueType != library.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG:
            unknown[event] = f"NVML's counter of the {event} is of an unexpected type ({answer.valueType})"
        else:
            known[event] = answer.value.ullVal / 1e9
    return known, unknown


def lasted(
    before: Mapping[str, float], after: Mapping[str, float], seconds: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of each event between two readings of the counters that lie `seconds` apart, or why not known."""
    known: dict[str, float] = {}
    unknown: dict[str, str] = {}
    for event in before.keys() & after.keys():
        grown = after[event] - before[event]
        # The counters may be brought up to date late: an update that was due before the window lands in it.
        if grown < 0:
            unknown[event] = f"the counter of the {event} ran backwards: the driver was loaded anew"
        elif grown > 1.1 * seconds + 1.0:
            unknown[event] = (
                f"the counter of the {event} grew by {grown:.3g} s in {seconds:.3g} s: its unit is not known"
            )
        else:
            known[event] = grown
    return known, unknown


def verdict(polls: Iterable[int], seconds: Mapping[str, float]) -> list[str]:
    """A flag for each event that makes a window invalid, whether a poll saw it or only its counter moved."""
    masks = list(polls)
    found = []
    for event in INVALID:
        seen = sum(event in names(mask) for mask in masks)
        if seconds.get(event):
            found.append(f"invalid: {event} for {seconds[event]:.3g} s of the window")
        elif seen:
            found.append(f"invalid: {event} in {seen} of {len(masks)} polls of the window")
    return found
