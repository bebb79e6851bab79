"""Energy by counter where there is one; by a model only in columns that say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Meter, Metric, Readings, Session, Window
from harness.machine.load import machine_ticks
from harness.meters import carbon, gpu_energy, rapl


@dataclass
class Energy(Meter):
    """The GPU's energy counter between updates, the processor's RAPL where readable, and codecarbon's model.

    `country_iso_code` (three letters) names the grid for carbon; without it carbon stays null. The grid's intensity is
    codecarbon's offline yearly mean. `pue`, `embodied_total_grams` and `lifetime_seconds` are inputs of the SCI.
    After the window it waits at most `idle_after_seconds` for the idle power to settle; 0 leaves that out.
    """

    idle_after_seconds: float = 1.0
    country_iso_code: str = ""
    pue: float | None = None
    embodied_total_grams: float | None = None
    lifetime_seconds: float | None = None

    period_seconds = 0.02
    metrics: ClassVar = (
        *gpu_energy.METRICS,
        Metric("cpu_energy_joules", "energy of the processor package over the window, by RAPL", "lower"),
        Metric("cpu_energy_estimated_joules", "codecarbon's load model of the whole machine's processor", "lower"),
        Metric("memory_energy_estimated_joules", "codecarbon's constant model of the machine's memory modules"),
        Metric("energy_per_token_estimated_joules", "estimated processor and memory energy of a token", "lower"),
        *carbon.METRICS,
    )

    def __post_init__(self) -> None:
        from harness.meters.codecarbon_model import grid_grams_per_kilowatt_hour

        if self.idle_after_seconds < 0:
            raise ValueError("idle_after_seconds must be 0 (off) or above")
        if self.pue is not None and self.pue < 1:
            raise ValueError("pue must be at least 1, or null where it is unknown")
        if (self.embodied_total_grams is None) != (self.lifetime_seconds is None):
            raise ValueError("embodied_total_grams and lifetime_seconds need each other: give both or neither")
        if self.embodied_total_grams is not None and self.embodied_total_grams < 0:
            raise ValueError("embodied_total_grams must be 0 or above")
        if self.lifetime_seconds is not None and self.lifetime_seconds <= 0:
            raise ValueError("lifetime_seconds must be above 0")
        if self.country_iso_code:
            grid_grams_per_kilowatt_hour(self.country_iso_code)  # an unknown name stops a sweep before it starts

    def once(self) -> Mapping[str, str]:
        """The processor's TDP: codecarbon takes seconds to look it up."""
        from harness.meters.codecarbon_model import TDP_VARIABLE, tdp_watts

        watts = tdp_watts()
        return {} if watts is None else {TDP_VARIABLE: str(watts)}

    def open(self, device: str) -> None:
        """Read the GPU's idle power before anything is loaded."""
        self._gpu = gpu_energy.GpuEnergy() if device == "cuda" else None
        if self._gpu is None:
            self.period_seconds = None  # no counter to follow: the thread may sleep

    def start(self) -> None:
        """First readings."""
        self._rapl = [rapl.microjoules()]
        self._load = [_busy_and_total_ticks()]
        self.sample()

    def sample(self) -> None:
        """The GPU's counter and power."""
        if self._gpu is not None:
            self._gpu.sample()

    def stop(self) -> None:
        """Last readings; the GPU's come last, because they wait for its counter."""
        self._rapl.append(rapl.microjoules())
        self._load.append(_busy_and_total_ticks())
        if self._gpu is not None:
            self._gpu.stop()

    def probe(self, session: Session) -> None:
        """The GPU's idle power again, once it has settled."""
        if self._gpu is not None:
            self._gpu.read_idle_power_again(self.idle_after_seconds)

    def readings(self, window: Window) -> Readings:
        """Joules by source; null with a reason where there is none."""
        no_gpu = Readings(reasons={metric.name: "no GPU" for metric in gpu_energy.METRICS})
        found = no_gpu if self._gpu is None else self._gpu.readings(window)
        values: dict[str, float | None] = dict(found.values)
        reasons, facts = dict(found.reasons), {"energy_source": "none", **found.facts}
        self._add_rapl(window, values, reasons)
        self._add_estimate(window, values, reasons)
        self._add_carbon(window, values, reasons, facts)
        if window.flushed_bytes:
            _withhold_shares(values, reasons, "caches were flushed between the steps")
        elif window.aside_seconds:
            _withhold_shares(values, reasons, "the model was evaluated between the steps")
        return Readings(values, reasons, facts, found.samples)

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        processor = "RAPL" if rapl.microjoules() is not None else f"unavailable: {rapl.ABSENT}"
        return {
            "GPU energy": gpu_energy.availability() if device == "cuda" else "unavailable: no GPU",
            "processor energy": processor,
            "estimated energy": "codecarbon's load model, in `_estimated_` columns only",
        }

    def _add_rapl(self, window: Window, values: dict[str, float | None], reasons: dict[str, str]) -> None:
        before, after = self._rapl
        if before is None or after is None:
            reasons["cpu_energy_joules"] = rapl.ABSENT
        elif window.seconds < 0.1:
            reasons["cpu_energy_joules"] = "the window is shorter than 100 updates of RAPL"
        else:
            wrap = int((rapl.RAPL / "max_energy_range_uj").read_text())
            values["cpu_energy_joules"] = ((after - before) % wrap) / 1e6

    def _add_estimate(self, window: Window, values: dict[str, float | None], reasons: dict[str, str]) -> None:
        from harness.meters.codecarbon_model import cpu_power_watts, memory_power_watts

        busy, total = (after - before for before, after in zip(*self._load, strict=True))
        cpu = cpu_power_watts(busy / total) if total else None
        memory = memory_power_watts()
        values["cpu_energy_estimated_joules"] = None if cpu is None else cpu * window.seconds
        values["memory_energy_estimated_joules"] = None if memory is None else memory * window.seconds
        if cpu is None:
            reason = (
                "codecarbon knows no power of this processor" if total else "shorter than a tick of the kernel's clock"
            )
            reasons["cpu_energy_estimated_joules"] = reasons["energy_per_token_estimated_joules"] = reason
        tokens = window.steps * window.work.tokens
        if not tokens:
            reasons["energy_per_token_estimated_joules"] = gpu_energy.NO_TOKENS
        elif cpu is not None and memory is not None:
            values["energy_per_token_estimated_joules"] = (cpu + memory) * window.seconds / tokens

    def _add_carbon(
        self, window: Window, values: dict[str, float | None], reasons: dict[str, str], facts: dict[str, Any]
    ) -> None:
        from harness.meters.codecarbon_model import grid_grams_per_kilowatt_hour, grid_source

        intensity = grid_grams_per_kilowatt_hour(self.country_iso_code) if self.country_iso_code else None
        factors = carbon.Factors(intensity, self.pue, self.embodied_total_grams, self.lifetime_seconds)
        measured = {"gpu_energy_joules": "GPU"} if self._gpu is not None else {"cpu_energy_joules": "processor package"}
        if values.get("cpu_energy_joules") is not None:
            measured["cpu_energy_joules"] = "processor package"
        modelled = ["cpu_energy_estimated_joules", "memory_energy_estimated_joules"]
        modelled += ["gpu_energy_joules"] if self._gpu is not None else []
        found, why = carbon.sci(factors, window, _sum(values, list(measured)), _sum(values, modelled))
        values |= found
        reasons |= why
        facts["carbon_region"] = self.country_iso_code or None
        facts["grid_intensity_source"] = grid_source() if self.country_iso_code else None
        facts["pue"] = "not given: taken as 1" if self.pue is None else self.pue
        facts["sci_boundary"] = " + ".join(measured.values()) if values["sci_energy_joules"] is not None else None


def _sum(values: Mapping[str, float | None], names: list[str]) -> tuple[float | None, str]:
    """Joules of all parts, or None and which of them is unknown."""
    parts = [values.get(name) for name in names]
    absent = ", ".join(name for name, part in zip(names, parts, strict=True) if part is None)
    if absent:
        return None, f"a part of the energy is unknown: {absent}"
    return sum(part for part in parts if part is not None), ""


def _busy_and_total_ticks() -> tuple[int, int]:
    ticks = machine_ticks()
    total = sum(ticks.values())
    return total - ticks.get("idle", 0) - ticks.get("iowait", 0), total


def _withhold_shares(values: dict[str, float | None], reasons: dict[str, str], what: str) -> None:
    for name in [name for name in values if name.rpartition("_per_")[2].split("_")[0] in ("step", "token", "sample")]:
        values[name] = None
        reasons[name] = f"{what}; the energy of that cannot be told apart"
