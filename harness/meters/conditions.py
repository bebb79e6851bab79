"""What a window ran under: temperature, clocks and why they fell, and who else was on the GPU."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from harness.interfaces import Meter, Metric, Readings, Window
from harness.machine import gpu
from harness.meters import clock_events, gpu_processes
from harness.meters.gpu_poll import Poll, default_sm_clock_hertz, poll
from harness.meters.sm_clock import SLOW_RATIO, SampleClock

#: The kernel's folder of cores. /proc/cpuinfo also shows a frequency, but in a virtual machine a nominal one.
CORES = Path("/sys/devices/system/cpu")
#: The column of each event's counter; the power cap's is a share of the window.
EVENT_COLUMNS = {
    "software thermal slowdown": "software_thermal_slowdown_seconds",
    "hardware thermal slowdown": "hardware_thermal_slowdown_seconds",
    "hardware power brake": "hardware_power_brake_seconds",
}


class Conditions(Meter):
    """Polls NVML every 0.1 s and at both ends of the window, and reads the SM clock beside each step.

    Thermal slowdown, hardware slowdown, a power brake and a foreign process flag the row as invalid; a power cap is a
    normal state and only noted. On a CPU: the load average, and the cores' frequency where the kernel shows one.
    """

    period_seconds = 0.1
    metrics: ClassVar = (
        Metric("gpu_temperature_begin_celsius", "GPU temperature at the window's start, by NVML"),
        Metric("gpu_temperature_end_celsius", "GPU temperature at the window's end, by NVML"),
        Metric("gpu_memory_temperature_celsius", "highest temperature of the GPU's memory in the window, by NVML"),
        Metric("sm_clock_minimum_hertz", "lowest multiprocessor clock that NVML showed in the window"),
        Metric("memory_clock_hertz", "median memory clock in the window, by NVML"),
        Metric("memory_clock_minimum_hertz", "lowest memory clock that NVML showed in the window"),
        Metric("power_capped_ratio", "share of the window in which the power limit held clocks down, by its counter"),
        Metric("software_thermal_slowdown_seconds", "time that the driver slowed the chip for temperature, by counter"),
        Metric("hardware_thermal_slowdown_seconds", "time that the chip slowed itself for temperature, by counter"),
        Metric("hardware_power_brake_seconds", "time that the power supply slowed the chip, by counter"),
        Metric("in_sample_sm_clock_hertz", "median over steps of a multiprocessor's cycles over the device's time"),
        Metric("slow_clock_sample_count", "steps whose clock was below 75% of the part's default; they are kept"),
        Metric("foreign_process_count", "other processes that held a context on the GPU during the window", "lower"),
        Metric("foreign_memory_bytes", "most GPU memory that other processes held in the window, by NVML", "lower"),
        Metric("load_average_begin_count", "runnable tasks of the machine at the window's start, mean over a minute"),
        Metric("load_average_end_count", "runnable tasks of the machine at the window's end, mean over a minute"),
        Metric("cpu_clock_begin_hertz", "mean frequency of the processor's cores at the window's start"),
        Metric("cpu_clock_end_hertz", "mean frequency of the processor's cores at the window's end"),
    )

    def open(self, device: str) -> None:
        """Find the GPU; nothing is polled before the window."""
        self.cuda = device == "cuda"
        self.watching = False
        self.clock: SampleClock | None = None
        self.clock_reason = "" if self.cuda else "no GPU"
        self.samples: list[float | None] = []
        self.polls: list[Poll] = []
        if self.cuda:
            self.handle = gpu.nvml_handle()
        else:
            self.period_seconds = None  # nothing to poll: the thread may sleep

    def before_step(self) -> None:
        """First stamp of the device's clocks; its kernel is compiled at the first step of the warm-up."""
        if self.clock is None and not self.clock_reason:
            try:
                self.clock = SampleClock()
            except Exception as error:  # Triton's compiler and launcher fail in ways of their own
                self.clock_reason = f"the clock's kernel cannot run here ({type(error).__name__}: {error})"[:300]
        if self.clock is not None:
            self.clock.begin()

    def after_step(self) -> None:
        """Second stamp, and the clock between them."""
        if self.clock is not None:
            self.samples.append(self.clock.end())

    def start(self) -> None:
        """First poll; the warm-up's samples are dropped."""
        self.samples, self.polls = [], []
        self.host = [_host()]
        if self.cuda:
            self.counters = [self._counters()]
            self.polls.append(poll(self.handle))
            self.watching = True

    def sample(self) -> None:
        """One poll, while the window is open."""
        if self.watching:
            self.polls.append(poll(self.handle))

    def stop(self) -> None:
        """Last poll."""
        self.watching = False
        self.host.append(_host())
        if self.cuda:
            self.polls.append(poll(self.handle))
            self.counters.append(self._counters())

    def readings(self, window: Window) -> Readings:
        """Every column or its reason, a line for each thing that makes the window invalid, and facts about the rest."""
        found = _Found()
        for name, index in (("begin", 0), ("end", 1)):
            found.put(f"load_average_{name}_count", self.host[index][0], "the kernel shows no load average")
            found.put(f"cpu_clock_{name}_hertz", self.host[index][1], "the kernel shows no current frequency of a core")
        if not self.cuda:
            found.reasons.update({metric.name: "no GPU" for metric in self.metrics if metric.name not in found.values})
            return Readings(found.values, found.reasons)
        self._add_polls(found)
        self._add_events(found)
        self._add_processes(found)
        self._add_sample_clocks(found)
        return Readings(found.values, found.reasons, found.facts, found.samples, found.flags)

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        processor = "cpufreq" if _host()[1] is not None else "unavailable: the kernel shows no current frequency"
        if device != "cuda":
            names = ("temperature and clocks", "clock events", "foreign processes", "clock within a step")
            return {**dict.fromkeys(names, "unavailable: no GPU"), "processor frequency": processor}
        handle = gpu.nvml_handle()
        known, unknown = clock_events.counters(handle)
        listed = gpu_processes.listed(handle) is not None
        return {
            "temperature and clocks": "NVML",
            "clock events": "; ".join([f"NVML polls and counters of: {', '.join(known) or 'none'}", *unknown.values()]),
            "foreign processes": "NVML" if listed else "unavailable: NVML does not list the processes of this GPU",
            "clock within a step": _triton(),
            "processor frequency": processor,
        }

    def _counters(self) -> tuple[float, dict[str, float], dict[str, str]]:
        return time.perf_counter(), *clock_events.counters(self.handle)

    def _add_polls(self, found: _Found) -> None:
        polls = self.polls
        found.put("gpu_temperature_begin_celsius", polls[0].temperature_celsius, "NVML gave no temperature")
        found.put("gpu_temperature_end_celsius", polls[-1].temperature_celsius, "NVML gave no temperature")
        for name, values, pick in (
            ("gpu_memory_temperature_celsius", [item.memory_temperature_celsius for item in polls], max),
            ("sm_clock_minimum_hertz", [item.sm_clock_hertz for item in polls], min),
            ("memory_clock_hertz", [item.memory_clock_hertz for item in polls], statistics.median),
            ("memory_clock_minimum_hertz", [item.memory_clock_hertz for item in polls], min),
        ):
            known = [value for value in values if value is not None]
            found.put(name, pick(known) if known else None, "NVML gave no such reading on this GPU")
        found.facts["conditions_poll_count"] = len(polls)
        found.facts["conditions_poll_seconds"] = statistics.median(item.seconds for item in polls)

    def _add_events(self, found: _Found) -> None:
        masks = [item.events for item in self.polls if item.events is not None]
        (begun, before, unread), (ended, after, _) = self.counters
        seconds, unknown = clock_events.lasted(before, after, ended - begun)
        unknown = {**unread, **unknown}
        for event, column in EVENT_COLUMNS.items():
            found.put(column, seconds.get(event), unknown.get(event, "the counter was not read at both ends"))
        capped, reason = seconds.get("software power cap"), unknown.get("software power cap", "")
        ratio = None if capped is None else min(1.0, capped / (ended - begun))
        found.put("power_capped_ratio", ratio, reason or "the counter was not read at both ends")
        found.flags += clock_events.verdict(masks, seconds)
        seen = [name for mask in masks for name in clock_events.names(mask)]
        found.facts["clock_events"] = sorted({*seen, *(event for event, lasted in seconds.items() if lasted)})
        found.facts["clock_event_poll_ratios"] = {name: seen.count(name) / len(masks) for name in sorted(set(seen))}

    def _add_processes(self, found: _Found) -> None:
        others = gpu_processes.foreign([item.processes for item in self.polls if item.processes is not None])
        found.put("foreign_process_count", others.count, others.note)
        found.put("foreign_memory_bytes", others.bytes, others.note or "NVML does not tell what a process holds")
        found.flags += gpu_processes.verdict(others)
        if others.note:
            found.facts["foreign_processes"] = others.note

    def _add_sample_clocks(self, found: _Found) -> None:
        clocks = [clock for clock in self.samples if clock is not None]
        if not clocks:
            unstamped = "no two stamps of one multiprocessor" if self.samples else "protocol.sm_clock is off"
            for name in ("in_sample_sm_clock_hertz", "slow_clock_sample_count"):
                found.put(name, None, self.clock_reason or unstamped)
            return
        default = default_sm_clock_hertz(self.handle)
        reference = default or statistics.median(clocks)
        found.values["in_sample_sm_clock_hertz"] = statistics.median(clocks)
        found.values["slow_clock_sample_count"] = sum(clock < SLOW_RATIO * reference for clock in clocks)
        found.facts["default_sm_clock_hertz"] = default
        # One for each step, in their order; a step whose stamps do not match has none.
        found.samples["in_sample_sm_clock_hertz_samples"] = self.samples


@dataclass
class _Found:
    """A meter's readings while they are put together."""

    values: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)

    def put(self, name: str, value: float | None, reason: str) -> None:
        """The value, or null and the reason."""
        self.values[name] = value
        if value is None:
            self.reasons[name] = reason


def _host() -> tuple[float | None, float | None]:
    """Load average over a minute (runnable tasks), and the mean frequency of the cores in hertz."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        load = None
    frequencies = []
    for path in CORES.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
        try:
            frequencies.append(float(path.read_text()) * 1e3)
        except (OSError, ValueError):
            continue
    return load, statistics.fmean(frequencies) if frequencies else None


def _triton() -> str:
    from importlib.util import find_spec

    return "Triton" if find_spec("triton") else "unavailable: Triton is not installed"
