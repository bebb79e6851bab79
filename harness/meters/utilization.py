"""How much of the machine a step uses: by required work, and by the part's own counters."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from harness.environment import device_name, usable_cores
from harness.gpu import nvml, nvml_handle
from harness.interfaces import Meter, Metric, Readings, Window
from harness.meters import gpm
from harness.meters.roofs import roof_of

#: Above this share of processor time for others, a row says that the machine was not quiet.
QUIET_RATIO = 0.05


class Utilization(Meter):
    """MFU and MBU from the method's own work, activity by NVML's GPM, and NVML's busy share under its own name."""

    period_seconds = 0.1
    metrics: ClassVar = (
        Metric("model_flops_per_second", "FLOPs that the method requires, over the steps' time", "higher"),
        Metric("mfu_ratio", "model FLOPs over the datasheet's dense peak in the weights' dtype", "higher"),
        Metric("mbu_ratio", "bytes that must move over the datasheet's memory bandwidth", "higher"),
        Metric("gpu_busy_ratio", "share of time with at least one kernel running (NVML's `utilization.gpu`)"),
        Metric("sm_active_ratio", "share of multiprocessor time with work, by GPM", "higher"),
        Metric("tensor_active_ratio", "share of time that the tensor pipes worked, by GPM", "higher"),
        Metric("dram_active_ratio", "share of the memory bandwidth in use, by GPM", "higher"),
        Metric("sm_clock_hertz", "median multiprocessor clock in the window, by NVML"),
        Metric("gpu_temperature_celsius", "highest GPU temperature in the window, by NVML"),
        Metric("cpu_busy_ratio", "processor time of this process over the window and the usable cores"),
        Metric("machine_busy_ratio", "processor time of the whole machine over the window and its cores"),
        Metric(
            "others_busy_ratio",
            "share of the machine's processor time that other processes took in the window",
            "lower",
        ),
        Metric("steal_ratio", "processor time that the hypervisor gave to others, over the window"),
    )

    def open(self, device: str) -> None:
        """Prepare the counters."""
        self.cuda = device == "cuda"
        self.part = device_name(device)
        self.roof = roof_of(self.part) if self.cuda else None
        self.busy: list[float] = []
        self.clocks: list[float] = []
        self.temperatures: list[float] = []
        self.activity: dict[str, float] = {}
        self.activity_reason = "no GPU" if not self.cuda else ""
        self.handle = nvml_handle() if self.cuda else None
        self.first_sample: Any = None

    def start(self) -> None:
        """First readings of the counters that are read as differences."""
        self.cpu_start = (time.process_time(), time.perf_counter(), _machine_ticks())
        if self.cuda:
            self.first_sample, self.activity_reason = gpm.sample(self.handle)

    def sample(self) -> None:
        """NVML's busy share, clock and temperature."""
        if self.cuda:
            library = nvml()
            self.busy.append(library.nvmlDeviceGetUtilizationRates(self.handle).gpu / 100)
            self.clocks.append(library.nvmlDeviceGetClockInfo(self.handle, library.NVML_CLOCK_SM) * 1e6)
            self.temperatures.append(float(library.nvmlDeviceGetTemperature(self.handle, library.NVML_TEMPERATURE_GPU)))

    def stop(self) -> None:
        """Last readings."""
        before, after = self.cpu_start, (time.process_time(), time.perf_counter(), _machine_ticks())
        wall = after[1] - before[1]
        self.cpu_busy = (after[0] - before[0]) / (wall * usable_cores())
        total = sum(after[2].values()) - sum(before[2].values())
        idle = sum(after[2].get(key, 0) - before[2].get(key, 0) for key in ("idle", "iowait"))
        steal = after[2].get("steal", 0) - before[2].get("steal", 0)
        self.machine_busy = 1 - idle / total if total else None
        self.steal = steal / total if total else None
        own = (after[0] - before[0]) / (wall * (os.cpu_count() or 1))
        self.others_busy = None if self.machine_busy is None else max(0.0, self.machine_busy - own)
        if self.cuda and self.first_sample is not None:
            self.activity, self.activity_reason = gpm.difference(self.handle, self.first_sample)

    def readings(self, window: Window) -> Readings:
        """Rates over the steps' own time, so that gaps between steps do not count against a technique."""
        seconds = sum(window.step_seconds)
        values: dict[str, float | None] = {
            "cpu_busy_ratio": self.cpu_busy,
            "machine_busy_ratio": self.machine_busy,
            "others_busy_ratio": self.others_busy,
            "steal_ratio": self.steal,
        }
        reasons: dict[str, str] = {}
        if self.machine_busy is None:
            names = ("machine_busy_ratio", "others_busy_ratio", "steal_ratio")
            reasons.update(dict.fromkeys(names, "shorter than a tick of the kernel's clock"))
        flops, moved = window.work.model_flops, window.work.moved_bytes
        if flops is None:
            reasons["model_flops_per_second"] = reasons["mfu_ratio"] = "no closed form for this model and method"
        else:
            values["model_flops_per_second"] = flops * window.steps / seconds
            values["mfu_ratio"], reasons["mfu_ratio"] = self._mfu(flops * window.steps / seconds, window.work.dtype)
        if moved is None:
            reasons["mbu_ratio"] = "no closed form of the bytes that this method must move"
        elif self.roof is None:
            reasons["mbu_ratio"] = self._no_roof()
        else:
            values["mbu_ratio"] = moved * window.steps / seconds / self.roof.bytes_per_second
        self._add_counters(values, reasons)
        return Readings(values, {name: reason for name, reason in reasons.items() if reason}, {"quiet": self._quiet()})

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        part = device_name(device)
        roof = "datasheet" if device == "cuda" and roof_of(part) else f"unavailable: no datasheet peak for {part!r}"
        activity = "unavailable: no GPU"
        if device == "cuda":
            activity = gpm.sample(nvml_handle())[1] or "NVML GPM"
        return {"MFU and MBU": roof, "SM, tensor and DRAM activity": activity, "processor time": "kernel accounting"}

    def _mfu(self, rate: float, dtype: str) -> tuple[float | None, str]:
        if self.roof is None:
            return None, self._no_roof()
        if dtype not in self.roof.flops_per_second:
            return None, f"no peak for {dtype} on this part"
        return rate / self.roof.flops_per_second[dtype], ""

    def _quiet(self) -> str:
        """Whether the machine was this trial's alone: others on two cores can slow a step several times over."""
        taken = max(self.others_busy or 0.0, self.steal or 0.0)
        return "quiet" if taken <= QUIET_RATIO else f"not quiet: others took {taken:.0%} of the processor"

    def _no_roof(self) -> str:
        return f"no datasheet peak is kept for {self.part!r}"

    def _add_counters(self, values: dict[str, float | None], reasons: dict[str, str]) -> None:
        for name, samples, pick in (
            ("gpu_busy_ratio", self.busy, statistics.fmean),
            ("sm_clock_hertz", self.clocks, statistics.median),
            ("gpu_temperature_celsius", self.temperatures, max),
        ):
            if samples:
                values[name] = pick(samples)
            else:
                reasons[name] = "no GPU"
        for name in ("sm_active_ratio", "tensor_active_ratio", "dram_active_ratio"):
            if name in self.activity:
                values[name] = self.activity[name]
            else:
                reasons[name] = self.activity_reason


def _machine_ticks() -> dict[str, int]:
    """The kernel's accounting of all cores, in ticks since start; empty where there is none."""
    try:
        with open("/proc/stat") as file:
            parts = file.readline().split()[1:9]
    except OSError:
        return {}
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    return dict(zip(names, map(int, parts), strict=False))
