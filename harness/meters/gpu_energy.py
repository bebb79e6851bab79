"""The GPU's energy over a window by its counter, beside the integral of its instant power, and its idle power."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

from harness.interfaces import Metric, Readings, Window
from harness.machine.gpu import nvml, nvml_handle
from harness.meters.energy_counter import counter_energy
from harness.meters.power_trace import PowerReading, integrated_joules, power_field, refreshed

CLEAN_PERIODS = 100
#: Power fields and counter are refreshed every 100 ms on the parts that were measured: later, a reading is a new one.
REFRESH_SECONDS = 0.11
#: Idle power has settled when three refreshes in a row lie within this share of each other.
SETTLED_RATIO = 0.03
#: Idle power that differs by more before and after a trial is said in the row.
IDLE_MOVED_RATIO = 0.05
#: The longest wait for the counter to move after the window; a counter that does not is broken.
LAST_TICK_SECONDS = 1.0

NO_TOKENS = "a step has no tokens"
NO_POWER = "NVML gave no instant power"

METRICS = (
    Metric(
        "gpu_energy_joules", "energy of the whole GPU over the window, idle share included, by its counter", "lower"
    ),
    Metric(
        "gpu_energy_uncertainty_joules",
        "how far off that can be, by the counter's readings around the window's edges",
    ),
    Metric("gpu_energy_per_step_joules", "gross GPU energy of a step", "lower"),
    Metric("gpu_energy_per_token_joules", "gross GPU energy of a token of `token_kind`", "lower"),
    Metric("gpu_power_mean_watts", "GPU energy over the window's time", "lower"),
    Metric("gpu_power_maximum_watts", "highest instant power that was sampled in the window"),
    Metric("gpu_idle_power_watts", "GPU power before the model was loaded, with a context"),
    Metric("gpu_idle_power_after_watts", "GPU power after the window, settled, the model still loaded"),
    Metric("idle_power_moved_ratio", "idle power after over before, less one: heat, clocks and loaded memory"),
    Metric("gpu_energy_net_joules", "gross energy less idle power (before) times the window", "lower"),
    Metric(
        "gpu_energy_integrated_joules",
        "integral of the instant power over the window: a cross-check, blind to most of the time on some parts",
    ),
    Metric("gpu_energy_integrated_over_counter_ratio", "integrated energy over the counter's"),
    Metric("gpu_counter_period_seconds", "refresh period of the energy counter, inferred"),
)


def availability() -> str:
    """The source of the GPU's energy here, or `unavailable: why`."""
    try:
        nvml().nvmlDeviceGetTotalEnergyConsumption(nvml_handle())
    except nvml().NVMLError as error:
        return f"unavailable: NVML answers {error}"
    return "NVML energy counter"


class GpuEnergy:
    """Reads one GPU around and during one window. Opened before the model is loaded."""

    def __init__(self) -> None:
        self.handle = nvml_handle()
        self.power_limit_watts = _power_limit_watts(self.handle)
        self.counter: list[tuple[int, float]] = []
        self.power: list[PowerReading] = []
        self.fault = ""
        self.idle_after_watts: float | None = None
        self.idle_after_reason = "the trial ended before the idle power was read again"
        self._one_at_a_time = threading.Lock()
        self._calls = 0
        _make_context()
        found = _idle_watts(self.handle, 3 * REFRESH_SECONDS)
        self.idle_watts = statistics.median(found) if found else None

    def sample(self) -> None:
        """The counter, and every other time the instant power; both are refreshed every 100 ms."""
        with self._one_at_a_time:  # start and stop sample beside the thread; readings must keep their order
            self._calls += 1
            if not self.fault:
                self._read_counter()
            found = power_field(self.handle, nvml().NVML_FI_DEV_POWER_INSTANT) if self._calls % 2 else None
            if found is not None:
                self.power.append(PowerReading(time.perf_counter_ns(), *found))

    def _read_counter(self) -> None:
        try:
            joules = nvml().nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3
        except nvml().NVMLError as error:
            self.fault = f"this GPU has no energy counter that can be read: NVML answers {error}"
            return
        self.counter.append((time.perf_counter_ns(), joules))

    def stop(self) -> None:
        """Read on until the counter has moved once more: that bounds the energy at the window's end."""
        self.sample()
        if not self.counter:
            return
        joules, limit = self.counter[-1][1], time.perf_counter_ns() + LAST_TICK_SECONDS * 1e9
        while self.counter[-1][1] == joules and not self.fault and time.perf_counter_ns() < limit:
            time.sleep(0.005)
            self.sample()

    def read_idle_power_again(self, limit_seconds: float) -> None:
        """Wait until the instant power has settled, at most `limit_seconds`; 0 leaves it out."""
        if limit_seconds == 0:
            self.idle_after_reason = "left out (meters.energy.idle_after_seconds is 0)"
            return
        found = _idle_watts(self.handle, limit_seconds)
        if _has_settled(found):
            self.idle_after_watts = statistics.median(found)
        else:
            seen = f"last readings in watts: {', '.join(f'{watts:.0f}' for watts in found)}" if found else NO_POWER
            self.idle_after_reason = f"not settled within {limit_seconds:g} s ({seen})"

    def readings(self, window: Window) -> Readings:
        """Values of `METRICS`, a reason for each null, and the trace of instant power from the window's start on."""
        values, reasons = self._idle()
        facts: dict[str, Any] = {"energy_source": "none"}
        trace = [item for item in refreshed(self.power) if window.start_ns <= item.at_ns <= window.end_ns]
        values["gpu_power_maximum_watts"] = max((item.watts for item in trace), default=None)
        reasons["gpu_power_maximum_watts"] = "never refreshed in the window" if self.power else NO_POWER
        self._add_counter(window, values, reasons, facts)
        self._add_integral(window, values, reasons)
        moved = values.get("idle_power_moved_ratio")
        if moved is not None:
            line = f"idle moved {moved:+.0%}: {self.idle_watts:.0f} W before, {self.idle_after_watts:.0f} W after"
            facts["idle_power"] = line if abs(moved) > IDLE_MOVED_RATIO else "steady"
        samples = {
            "gpu_power_watts": [item.watts for item in trace],
            "gpu_power_at_seconds": [(item.at_ns - window.start_ns) / 1e9 for item in trace],
        }
        nulls = {metric.name: reasons.get(metric.name, "") for metric in METRICS if values.get(metric.name) is None}
        return Readings(values, nulls, facts, samples if trace else {})

    def _idle(self) -> tuple[dict[str, float | None], dict[str, str]]:
        before, after = self.idle_watts, self.idle_after_watts
        values = {"gpu_idle_power_watts": before, "gpu_idle_power_after_watts": after}
        if before is not None and after is not None:
            values["idle_power_moved_ratio"] = after / before - 1
        reasons = {
            "gpu_idle_power_watts": NO_POWER,
            "gpu_idle_power_after_watts": self.idle_after_reason,
            "idle_power_moved_ratio": NO_POWER if before is None else self.idle_after_reason,
        }
        return values, reasons

    def _add_counter(
        self, window: Window, values: dict[str, float | None], reasons: dict[str, str], facts: dict[str, Any]
    ) -> None:
        found = counter_energy(self.counter, window.start_ns, window.end_ns, self.power_limit_watts)
        values["gpu_counter_period_seconds"] = found.period_seconds
        if found.joules is None or self.fault:
            for metric in METRICS:
                reasons.setdefault(metric.name, self.fault or found.reason)
            return
        tokens = window.steps * window.work.tokens
        values |= {
            "gpu_energy_joules": found.joules,
            "gpu_energy_uncertainty_joules": found.uncertainty_joules,
            "gpu_power_mean_watts": found.joules / window.seconds,
            "gpu_energy_per_step_joules": found.joules / window.steps,
            "gpu_energy_per_token_joules": found.joules / tokens if tokens else None,
        }
        if self.idle_watts is not None:
            values["gpu_energy_net_joules"] = found.joules - self.idle_watts * window.seconds
        reasons |= {"gpu_energy_per_token_joules": NO_TOKENS, "gpu_energy_net_joules": NO_POWER}
        facts["energy_source"] = "counter"
        facts["energy_window_periods"] = found.periods
        facts["energy_window"] = (
            "clean" if found.periods >= CLEAN_PERIODS else f"coarse: {found.periods:.0f} counter periods"
        )

    def _add_integral(self, window: Window, values: dict[str, float | None], reasons: dict[str, str]) -> None:
        joules, reason = integrated_joules(refreshed(self.power), window.start_ns, window.end_ns)
        counted = values.get("gpu_energy_joules")
        values["gpu_energy_integrated_joules"] = joules
        reasons["gpu_energy_integrated_joules"] = reason if self.power else NO_POWER
        if joules is None:
            reasons["gpu_energy_integrated_over_counter_ratio"] = reasons["gpu_energy_integrated_joules"]
        elif counted is not None:
            values["gpu_energy_integrated_over_counter_ratio"] = joules / counted


def _idle_watts(handle: Any, limit_seconds: float) -> list[float]:
    """The last three refreshes of the instant power, as soon as they have settled or `limit_seconds` are over."""
    found: list[tuple[int, float]] = []
    limit = time.perf_counter_ns() + limit_seconds * 1e9
    while time.perf_counter_ns() < limit and not _has_settled([watts for _, watts in found[-3:]]):
        time.sleep(REFRESH_SECONDS)
        reading = power_field(handle, nvml().NVML_FI_DEV_POWER_INSTANT)
        if reading is None:
            return []
        if reading not in found[-1:]:  # the same stamp and value: not refreshed yet
            found.append(reading)
    return [watts for _, watts in found[-3:]]


def _has_settled(watts: list[float]) -> bool:
    return len(watts) == 3 and max(watts) - min(watts) <= SETTLED_RATIO * statistics.median(watts)


def _make_context() -> None:
    """A context of its own raises a GPU's idle power: without it, before and after would not compare."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _power_limit_watts(handle: Any) -> float | None:
    try:
        return nvml().nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3
    except nvml().NVMLError:
        return None
