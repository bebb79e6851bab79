"""Energy by counter where there is one; by a model only in columns that say so."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.gpu import nvml, nvml_handle
from harness.interfaces import Meter, Metric, Readings, Window
from harness.meters import rapl
from harness.meters.energy_counter import counter_energy

CLEAN_PERIODS = 100


@dataclass
class Energy(Meter):
    """The GPU's energy counter between updates, the processor's RAPL where readable, and codecarbon's model.

    `country_iso_code` (three letters) names the grid for carbon; without it carbon stays null. The grid's intensity is
    codecarbon's offline yearly mean.
    """

    country_iso_code: str = ""

    period_seconds = 0.02
    metrics: ClassVar = (
        Metric(
            "gpu_energy_joules", "energy of the whole GPU over the window, idle share included, by its counter", "lower"
        ),
        Metric("gpu_energy_uncertainty_joules", "what one period of the counter holds at the window's mean power"),
        Metric("gpu_energy_per_step_joules", "gross GPU energy of a step", "lower"),
        Metric("gpu_energy_per_token_joules", "gross GPU energy of a token of `token_kind`", "lower"),
        Metric("gpu_power_mean_watts", "GPU energy over the window's time", "lower"),
        Metric("gpu_power_maximum_watts", "highest instant power that was sampled"),
        Metric("gpu_idle_power_watts", "GPU power before the model was loaded, with a context"),
        Metric("gpu_energy_net_joules", "gross energy less idle power times the window", "lower"),
        Metric("gpu_counter_period_seconds", "refresh period of the energy counter, inferred"),
        Metric("cpu_energy_joules", "energy of the processor package over the window, by RAPL", "lower"),
        Metric("cpu_energy_estimated_joules", "codecarbon's load model of the whole machine's processor", "lower"),
        Metric("memory_energy_estimated_joules", "codecarbon's constant model of the machine's memory modules"),
        Metric("energy_per_token_estimated_joules", "estimated processor and memory energy of a token", "lower"),
        Metric(
            "carbon_estimated_grams",
            "energy (by counter for a GPU, else estimated) times the grid's yearly mean",
            "lower",
        ),
    )

    def once(self) -> Mapping[str, str]:
        """The processor's TDP: codecarbon takes seconds to look it up."""
        from harness.meters.codecarbon_model import TDP_VARIABLE, tdp_watts

        watts = tdp_watts()
        return {} if watts is None else {TDP_VARIABLE: str(watts)}

    def open(self, device: str) -> None:
        """Read the idle power before anything is loaded."""
        self._state = _State(cuda=device == "cuda")
        if not self._state.cuda:
            self.period_seconds = None  # no counter to follow: the thread may sleep
        else:
            self._state.handle = nvml_handle()
            self._state.idle_watts = _idle_watts(self._state.handle)

    def start(self) -> None:
        """First readings."""
        state = self._state
        state.rapl_start = rapl.microjoules()
        state.load_start = _busy_and_total_ticks()
        self.sample()

    def sample(self) -> None:
        """The counter, and the instant power every fifth time (it is refreshed every 100 ms)."""
        state = self._state
        if state.cuda and not state.counter_fault:
            try:
                joules = nvml().nvmlDeviceGetTotalEnergyConsumption(state.handle) / 1e3
            except nvml().NVMLError as error:
                state.counter_fault = f"this GPU has no energy counter: NVML answers {error}"
                return
            state.counter.append((time.perf_counter_ns(), joules))
            if len(state.counter) % 5 == 1:
                watts = _instant_power_watts(state.handle)
                if watts is not None:
                    state.power.append(watts)

    def stop(self) -> None:
        """Last readings."""
        state = self._state
        self.sample()
        state.rapl_end = rapl.microjoules()
        state.load_end = _busy_and_total_ticks()

    def readings(self, window: Window) -> Readings:
        """Joules by source; null with a reason where there is none."""
        values: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        facts: dict[str, Any] = {"energy_source": "none", "carbon_region": self.country_iso_code or None}
        self._add_gpu(window, values, reasons, facts)
        self._add_rapl(window, values, reasons)
        self._add_estimate(window, values, reasons)
        self._add_carbon(values, reasons, facts)
        samples = {"gpu_power_watts": self._state.power} if self._state.power else {}
        return Readings(values, reasons, facts, samples)

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        processor = "RAPL" if rapl.microjoules() is not None else f"unavailable: {rapl.ABSENT}"
        gpu = "NVML energy counter" if device == "cuda" else "unavailable: no GPU"
        return {
            "GPU energy": gpu,
            "processor energy": processor,
            "estimated energy": "codecarbon's load model, in `_estimated_` columns only",
        }

    def _add_gpu(
        self, window: Window, values: dict[str, float | None], reasons: dict[str, str], facts: dict[str, Any]
    ) -> None:
        names = [metric.name for metric in self.metrics if metric.name.startswith("gpu_")]
        state = self._state
        if not state.cuda:
            reasons.update(dict.fromkeys(names, "no GPU"))
            return
        values["gpu_idle_power_watts"] = state.idle_watts
        values["gpu_power_maximum_watts"] = max(state.power, default=None)
        if state.idle_watts is None or not state.power:
            instant = ("gpu_idle_power_watts", "gpu_power_maximum_watts", "gpu_energy_net_joules")
            reasons.update(dict.fromkeys(instant, state.counter_fault or "NVML gave no instant power"))
        found = counter_energy(state.counter, window.start_ns, window.end_ns)
        values["gpu_counter_period_seconds"] = found.period_seconds
        if found.joules is None:
            reason = state.counter_fault or found.reason
            reasons.update({name: reason for name in names if values.get(name) is None and name not in reasons})
            return
        watts = found.joules / window.seconds
        values |= {
            "gpu_energy_joules": found.joules,
            "gpu_power_mean_watts": watts,
            "gpu_energy_uncertainty_joules": watts * (found.period_seconds or 0.0),
            "gpu_energy_per_step_joules": found.joules / window.steps,
            "gpu_energy_per_token_joules": found.joules / (window.steps * window.work.tokens),
        }
        if state.idle_watts is not None:
            values["gpu_energy_net_joules"] = found.joules - state.idle_watts * window.seconds
        facts["energy_source"] = "counter"
        facts["energy_window_periods"] = found.periods
        facts["energy_window"] = (
            "clean" if found.periods >= CLEAN_PERIODS else f"coarse: {found.periods:.0f} counter periods"
        )

    def _add_rapl(self, window: Window, values: dict[str, float | None], reasons: dict[str, str]) -> None:
        before, after = self._state.rapl_start, self._state.rapl_end
        if before is None or after is None:
            reasons["cpu_energy_joules"] = rapl.ABSENT
        elif window.seconds < 0.1:
            reasons["cpu_energy_joules"] = "the window is shorter than 100 updates of RAPL"
        else:
            wrap = int((rapl.RAPL / "max_energy_range_uj").read_text())
            values["cpu_energy_joules"] = ((after - before) % wrap) / 1e6

    def _add_estimate(self, window: Window, values: dict[str, float | None], reasons: dict[str, str]) -> None:
        from harness.meters.codecarbon_model import cpu_power_watts, memory_power_watts

        busy = self._state.load_end[0] - self._state.load_start[0]
        total = self._state.load_end[1] - self._state.load_start[1]
        cpu = cpu_power_watts(busy / total) if total else None
        memory = memory_power_watts()
        values["cpu_energy_estimated_joules"] = None if cpu is None else cpu * window.seconds
        values["memory_energy_estimated_joules"] = None if memory is None else memory * window.seconds
        if cpu is None:
            reason = (
                "codecarbon knows no power of this processor" if total else "shorter than a tick of the kernel's clock"
            )
            reasons["cpu_energy_estimated_joules"] = reasons["energy_per_token_estimated_joules"] = reason
        if cpu is not None and memory is not None:
            tokens = window.steps * window.work.tokens
            values["energy_per_token_estimated_joules"] = (cpu + memory) * window.seconds / tokens

    def _add_carbon(self, values: dict[str, float | None], reasons: dict[str, str], facts: dict[str, Any]) -> None:
        from harness.meters.codecarbon_model import grid_grams_per_kilowatt_hour

        if not self.country_iso_code:
            reasons["carbon_estimated_grams"] = "no grid is named: set meters.energy.country_iso_code"
            return
        intensity = grid_grams_per_kilowatt_hour(self.country_iso_code)
        facts["grid_grams_per_kilowatt_hour"] = intensity
        names = ["cpu_energy_estimated_joules", "memory_energy_estimated_joules"]
        names += ["gpu_energy_joules"] if self._state.cuda else []
        parts = [values.get(name) for name in names]
        joules = [part for part in parts if part is not None]
        if len(joules) < len(parts):
            absent = ", ".join(name for name, part in zip(names, parts, strict=True) if part is None)
            reasons["carbon_estimated_grams"] = f"a part of the energy is unknown: {absent}"
            return
        values["carbon_estimated_grams"] = sum(joules) / 3.6e6 * intensity


@dataclass
class _State:
    """What one window's readings hold."""

    cuda: bool
    handle: Any = None
    idle_watts: float | None = None
    rapl_start: int | None = None
    rapl_end: int | None = None
    load_start: tuple[int, int] = (0, 0)
    load_end: tuple[int, int] = (0, 0)
    counter_fault: str = ""

    def __post_init__(self) -> None:
        self.counter: list[tuple[int, float]] = []
        self.power: list[float] = []


def _idle_watts(handle: Any) -> float | None:
    """Median of the instant power over three of its updates, before the trial has given the GPU any work."""
    found = []
    for _ in range(6):
        watts = _instant_power_watts(handle)
        if watts is None:
            return None
        found.append(watts)
        time.sleep(0.06)
    return statistics.median(found)


def _instant_power_watts(handle: Any) -> float | None:
    """NVML's instant power. The plain power reading is a one-second mean on newer GPUs and is not used."""

    library = nvml()
    value = library.nvmlDeviceGetFieldValues(handle, [library.NVML_FI_DEV_POWER_INSTANT])[0]
    return value.value.uiVal / 1e3 if value.nvmlReturn == library.NVML_SUCCESS else None


def _busy_and_total_ticks() -> tuple[int, int]:
    try:
        with open("/proc/stat") as file:
            ticks = [int(item) for item in file.readline().split()[1:9]]
    except OSError:
        return 0, 0
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
