"""Carbon by the parts of the SCI: energy E, grid intensity I, embodied emissions M, functional unit R.

SCI = (E x I + M) / R, with M = total embodied emissions x time / lifetime, and PUE on E.
Source: Green Software Foundation, Software Carbon Intensity specification 1.1 (ISO/IEC 21031).
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.interfaces import Metric, Window

JOULES_PER_KILOWATT_HOUR = 3.6e6

METRICS = (
    Metric("sci_energy_joules", "measured energy of the window (E): the parts that the fact sci_boundary names"),
    Metric("sci_energy_estimated_joules", "the same with codecarbon's models of processor and memory"),
    Metric(
        "grid_intensity_grams_per_kilowatt_hour",
        "carbon intensity of the named country's electricity, yearly mean (I): an input, not a measurement",
    ),
    Metric("embodied_grams", "given embodied emissions of the device times the window over its lifetime (M)"),
    Metric("carbon_estimated_grams", "sci_energy_estimated_joules times PUE times the grid's yearly mean", "lower"),
    Metric("sci_grams_per_token", "(E x PUE x I + M) over the window's tokens, E being measured", "lower"),
    Metric("sci_grams_per_sample", "(E x PUE x I + M) over the window's samples, E being measured", "lower"),
    Metric("sci_estimated_grams_per_token", "the same, E with codecarbon's models", "lower"),
    Metric("sci_estimated_grams_per_sample", "the same, E with codecarbon's models", "lower"),
)


@dataclass(frozen=True)
class Factors:
    """What turns joules into grams: inputs, none of them measured. None is unknown; an unknown PUE counts as 1."""

    grams_per_kilowatt_hour: float | None
    pue: float | None
    embodied_total_grams: float | None
    lifetime_seconds: float | None

    def operational_grams(self, joules: float) -> float | None:
        """E x PUE x I; None without a grid."""
        if self.grams_per_kilowatt_hour is None:
            return None
        return joules / JOULES_PER_KILOWATT_HOUR * (self.pue or 1.0) * self.grams_per_kilowatt_hour

    def embodied_grams(self, seconds: float) -> float | None:
        """M of a device that is reserved whole for `seconds`; None where it was not given."""
        if self.embodied_total_grams is None or self.lifetime_seconds is None:
            return None
        return self.embodied_total_grams * seconds / self.lifetime_seconds


NO_GRID = "no grid is named: set meters.energy.country_iso_code"
NO_EMBODIED = "set meters.energy.embodied_total_grams and lifetime_seconds"


def sci(
    factors: Factors, window: Window, measured: tuple[float | None, str], estimated: tuple[float | None, str]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Values of `METRICS` and reasons for the nulls, from the window's joules (or None and why)."""
    embodied = factors.embodied_grams(window.seconds)
    values: dict[str, float | None] = {
        "grid_intensity_grams_per_kilowatt_hour": factors.grams_per_kilowatt_hour,
        "embodied_grams": embodied,
    }
    reasons = {"grid_intensity_grams_per_kilowatt_hour": NO_GRID, "embodied_grams": NO_EMBODIED}
    units = {"token": window.work.tokens * window.steps, "sample": window.work.samples * window.steps}
    for infix, (joules, why) in {"": measured, "_estimated": estimated}.items():
        values[f"sci_energy{infix}_joules"], reasons[f"sci_energy{infix}_joules"] = joules, why
        grams = None if joules is None else factors.operational_grams(joules)
        if infix:
            values["carbon_estimated_grams"], reasons["carbon_estimated_grams"] = grams, why or NO_GRID
        for unit, count in units.items():
            name = f"sci{infix}_grams_per_{unit}"
            if grams is None or embodied is None:
                values[name], reasons[name] = None, why or (NO_GRID if grams is None else NO_EMBODIED)
            elif count:
                values[name] = (grams + embodied) / count
            else:
                values[name], reasons[name] = None, f"a step has no {unit}s"
    return values, {name: reason for name, reason in reasons.items() if values[name] is None}
