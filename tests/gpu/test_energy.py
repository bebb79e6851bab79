"""Energy on an NVIDIA GPU: its counter against its own average power, idle power around a window, short windows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.interfaces import Readings, Window
from harness.machine.gpu import gpu_facts, nvml, nvml_handle
from harness.meters.energy import Energy
from harness.meters.energy_counter import FEWEST_PERIODS
from harness.meters.power_trace import power_field
from harness.protocol import Protocol
from harness.run.measure import measure
from tests.gpu.loads import Products

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]


def measured(seconds: float, meter: Energy | None = None) -> tuple[Readings, Window]:
    """One window of about `seconds`, as a trial makes it."""
    meter = meter or Energy(country_iso_code="FRA", embodied_total_grams=2e5, lifetime_seconds=1.26e8)
    meter.open("cuda")
    session = Products()
    protocol = Protocol(minimum_seconds=seconds, maximum_seconds=seconds + 1)
    window = measure(session, protocol, "cuda", [meter], None).window
    meter.probe(session)
    return meter.readings(window), window


@pytest.fixture(scope="module")
def found() -> tuple[Readings, Window]:
    """Three seconds of products, coarse but enough."""
    return measured(3.2)


def test_energy_is_power_times_time_below_the_limit_and_known_to_a_few_periods(found: tuple[Readings, Window]):
    readings, window = found
    values = readings.values
    assert values["gpu_energy_joules"] is not None, readings.reasons
    assert values["gpu_power_mean_watts"] * window.seconds == pytest.approx(values["gpu_energy_joules"])
    assert values["gpu_energy_joules"] < gpu_facts()["power_limit_watts"] * window.seconds * 1.05
    period_joules = values["gpu_power_mean_watts"] * values["gpu_counter_period_seconds"]
    assert 0 < values["gpu_energy_uncertainty_joules"] < 4 * period_joules
    assert readings.facts["energy_source"] == "counter"
    assert "coarse" in readings.facts["energy_window"]


def test_idle_power_stands_before_and_after_the_window(found: tuple[Readings, Window]):
    readings, window = found
    values = readings.values
    before, after = values["gpu_idle_power_watts"], values["gpu_idle_power_after_watts"]
    assert before is not None
    assert after is not None, readings.reasons["gpu_idle_power_after_watts"]
    assert 10 < before < values["gpu_power_mean_watts"]
    assert 10 < after < values["gpu_power_mean_watts"]
    assert values["idle_power_moved_ratio"] == pytest.approx(after / before - 1)
    assert ("idle moved" in readings.facts["idle_power"]) == (abs(after / before - 1) > 0.05)
    assert values["gpu_energy_net_joules"] == pytest.approx(values["gpu_energy_joules"] - before * window.seconds)


def test_the_trace_holds_each_refresh_of_the_instant_power_once(found: tuple[Readings, Window]):
    readings, window = found
    seconds, watts = readings.samples["gpu_power_at_seconds"], readings.samples["gpu_power_watts"]
    assert len(seconds) == len(watts)
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] <= window.seconds
    period = readings.values["gpu_counter_period_seconds"]
    assert 0.5 * window.seconds / period < len(seconds) < 1.3 * window.seconds / period
    assert max(watts) == readings.values["gpu_power_maximum_watts"]
    integrated = readings.values["gpu_energy_integrated_joules"]
    assert readings.values["gpu_energy_integrated_over_counter_ratio"] == pytest.approx(
        integrated / readings.values["gpu_energy_joules"]
    )


def test_the_sci_is_made_of_the_counters_energy(found: tuple[Readings, Window]):
    values = found[0].values
    grams = values["sci_energy_joules"] / 3.6e6 * values["grid_intensity_grams_per_kilowatt_hour"]
    assert values["sci_grams_per_token"] * found[1].steps == pytest.approx(grams + values["embodied_grams"])
    assert values["sci_energy_joules"] >= values["gpu_energy_joules"]


def test_a_window_of_too_few_periods_is_null_with_a_reason():
    readings, _ = measured(0.6, Energy(idle_after_seconds=0))
    for name in ("gpu_energy_joules", "gpu_energy_per_step_joules", "gpu_energy_net_joules", "sci_energy_joules"):
        assert readings.values.get(name) is None
        assert readings.reasons[name]
    assert str(FEWEST_PERIODS) in readings.reasons["gpu_energy_joules"]
    assert "idle_after_seconds" in readings.reasons["gpu_idle_power_after_watts"]
    assert readings.facts["energy_source"] == "none"


def test_both_power_fields_answer_for_the_gpu_alone():
    limit = gpu_facts()["power_limit_watts"]
    for field in (nvml().NVML_FI_DEV_POWER_INSTANT, nvml().NVML_FI_DEV_POWER_AVERAGE):
        found = power_field(nvml_handle(), field)
        assert found is not None
        assert 10 < found[1] < 1.2 * limit
    assert power_field(nvml_handle(), 10**6) is None, "a field that there is not"


def test_the_counter_agrees_with_the_integral_of_average_power_over_a_steady_load():
    path = Path(__file__).parents[2] / "benchmarks" / "energy_counter.py"
    spec = importlib.util.spec_from_file_location("energy_counter_on_a_gpu", path)
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    watch = script.Watch(nvml_handle())
    found = script.steady(watch, script.Load(), script.Plan())
    assert found["counter_joules"] is not None, found["reason"]
    assert found["average_over_counter_ratio"] == pytest.approx(1, abs=0.03)
    assert found["uncertainty_joules"] < 0.03 * found["counter_joules"]
