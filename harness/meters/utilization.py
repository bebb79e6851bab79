"""How much of the machine a step uses: by required work, and by the part's own counters."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from harness.interfaces import Meter, Metric, Readings, Window
from harness.machine import load as machine_load
from harness.machine import measured_roofs
from harness.machine.environment import device_name
from harness.machine.gpu import nvml, nvml_handle
from harness.machine.measured_roofs import MeasuredRoofs
from harness.meters import gpm
from harness.meters.peaks import Peaks
from harness.meters.rates import measure_roofs
from harness.meters.roofs import roof_of


class Utilization(Meter):
    """MFU and MBU from the method's own work, activity by NVML's GPM, and NVML's busy share under its own name."""

    period_seconds = 0.1
    metrics: ClassVar = (
        Metric("model_flops_per_second", "FLOPs that the method requires, over the steps' time", "higher"),
        Metric("mfu_ratio", "model FLOPs over the datasheet's dense peak in the weights' dtype", "higher"),
        Metric("mfu_at_clock_ratio", "model FLOPs over the dense peak at the window's mean clock", "higher"),
        Metric(
            "mfu_of_measured_roof_ratio",
            "model FLOPs over the best matrix product that `harness calibrate` saw on this very device",
            "higher",
        ),
        Metric("mbu_ratio", "bytes that must move over the datasheet's memory bandwidth", "higher"),
        Metric(
            "mbu_of_measured_roof_ratio",
            "bytes that must move over the best memory rate that `harness calibrate` saw on this very device",
            "higher",
        ),
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
        self.device = device
        self.busy: list[float] = []
        self.clocks: list[float] = []
        self.temperatures: list[float] = []
        self.activity: dict[str, float] = {}
        self.activity_reason = "no GPU" if not self.cuda else ""
        self.handle = nvml_handle() if self.cuda else None
        self.first_sample: Any = None

    def start(self) -> None:
        """First readings of the counters that are read as differences."""
        self.before = machine_load.snapshot()
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
        self.load = machine_load.between(self.before, machine_load.snapshot())
        if self.cuda and self.first_sample is not None:
            self.activity, self.activity_reason = gpm.difference(self.handle, self.first_sample)

    def readings(self, window: Window) -> Readings:
        """Rates over the steps' own time, so that gaps between steps do not count against a technique."""
        load = self.load
        values: dict[str, float | None] = {
            "cpu_busy_ratio": load.cpu_busy_ratio,
            "machine_busy_ratio": load.machine_busy_ratio,
            "others_busy_ratio": load.others_busy_ratio,
            "steal_ratio": load.steal_ratio,
        }
        reasons = {name: "shorter than a tick of the kernel's clock" for name, value in values.items() if value is None}
        facts: dict[str, Any] = {"quiet": load.quiet}
        self._add_rates(window, values, reasons, facts)
        self._add_counters(values, reasons)
        return Readings(values, reasons, facts)

    def calibrate(self, device: str, seconds: float, say: Callable[[str], object]) -> MeasuredRoofs:
        """The best rates of matrix products and of memory."""
        return measure_roofs(device, seconds, say)

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        part = device_name(device)
        roof = "datasheet" if device == "cuda" and roof_of(part) else f"unavailable: no datasheet peak for {part!r}"
        activity = "unavailable: no GPU"
        if device == "cuda":
            activity = gpm.sample(nvml_handle())[1] or "NVML GPM"
        return {
            "MFU and MBU": roof,
            "MFU and MBU of this machine's own roofs": measured_roofs.availability(device),
            "SM, tensor and DRAM activity": activity,
            "processor time": "kernel accounting",
        }

    def _add_rates(
        self, window: Window, values: dict[str, float | None], reasons: dict[str, str], facts: dict[str, Any]
    ) -> None:
        seconds, dtype = sum(window.step_seconds), window.work.dtype
        flops, moved = window.work.model_flops, window.work.moved_bytes
        # Read here, because a processor's roof depends on the threads that the trial's libraries have settled on.
        peaks = Peaks(self.device, device_name(self.device))
        if peaks.measured is not None:
            facts["measured_roof"] = measured_roofs.facts(peaks.measured, dtype)
        if peaks.datasheet is not None:
            facts["datasheet_roof"] = {
                "flops_per_second": peaks.datasheet.flops_per_second.get(dtype),
                "bytes_per_second": peaks.datasheet.bytes_per_second,
            }
        clock = statistics.fmean(self.clocks) if self.clocks else None
        compute = {
            "mfu_ratio": peaks.datasheet_flops(dtype),
            "mfu_at_clock_ratio": peaks.flops_at(clock, dtype),
            "mfu_of_measured_roof_ratio": peaks.measured_flops(dtype),
        }
        if flops is None:
            absent = ["model_flops_per_second", *compute]
            reasons.update(dict.fromkeys(absent, "no closed form for this model and method"))
        else:
            values["model_flops_per_second"] = rate = flops * window.steps / seconds
            _hold_against(compute, rate, values, reasons)
        memory = {"mbu_ratio": peaks.datasheet_bytes(), "mbu_of_measured_roof_ratio": peaks.measured_bytes(moved)}
        if moved is None:
            reasons.update(dict.fromkeys(memory, "no closed form of the bytes that this method must move"))
        else:
            _hold_against(memory, moved * window.steps / seconds, values, reasons)

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


def _hold_against(
    peaks: Mapping[str, tuple[float | None, str]],
    rate: float,
    values: dict[str, float | None],
    reasons: dict[str, str],
) -> None:
    """`rate` over each peak under its column's name, or the reason why there is no such peak."""
    for name, (peak, reason) in peaks.items():
        values[name] = None if peak is None else rate / peak
        if peak is None:
            reasons[name] = reason
