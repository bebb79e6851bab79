"""The script that asks whether a GPU's counter is honest, on a simulated GPU whose energy is known exactly."""

from __future__ import annotations

import bisect
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "energy_counter.py"
IDLE, BUSY = 100.0, 700.0


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("energy_counter_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # its dataclasses look their module up
    spec.loader.exec_module(found)
    yield found
    del sys.modules[spec.name]


class Simulated:
    """A GPU and its host's clock: 700 W while a load runs, else 100 W; counter and fields refreshed every `period`.

    Instant power is the mean of 25 ms before a refresh, average power that of 1 s. A `sampled` counter adds up instant
    power, as one would that is no better than its sensor.
    """

    NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT = 185, 186
    NVML_SUCCESS, NVML_TEMPERATURE_GPU = 0, 0
    NVMLError = RuntimeError

    def __init__(self, period: float = 0.1001, phase: float = 0.037, sampled: bool = False) -> None:
        self.now, self.period, self.phase, self.sampled = 50.0, period, phase, sampled
        self.product_ns = 1.6e6
        self.begins, self.ends, self.done = [0.0], [0.0], [0.0]
        self.first, self.summed = self.refresh(), [0.0]

    def perf_counter_ns(self) -> int:
        self.now += 20e-6
        return int(self.now * 1e9)

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + 50e-6

    def start(self, products: int) -> Callable[[], bool]:
        begin = max(self.now + 1e-5, self.ends[-1])
        self.begins.append(begin)
        self.ends.append(begin + products * self.product_ns / 1e9)
        self.done.append(self.done[-1] + self.ends[-1] - begin)
        end = self.ends[-1]
        return lambda: self.now < end

    def run(self, products: int) -> None:
        self.start(products)
        self.now = self.ends[-1]

    def joules(self, time: float) -> float:
        """True energy since time 0."""
        index = bisect.bisect_right(self.begins, time) - 1
        busy = self.done[index] - max(0.0, self.ends[index] - time)
        return IDLE * time + (BUSY - IDLE) * busy

    def refresh(self) -> int:
        return math.floor((self.now - self.phase) / self.period)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        last = self.phase + self.refresh() * self.period
        self.now += 30e-6
        if not self.sampled:
            return int(self.joules(last) * 1e3)
        while len(self.summed) <= self.refresh() - self.first:
            refresh = self.phase + (self.first + len(self.summed)) * self.period
            self.summed.append(self.summed[-1] + self.mean(refresh, 0.025) * self.period)
        return int(self.summed[-1] * 1e3)

    def mean(self, time: float, width: float) -> float:
        return (self.joules(time) - self.joules(time - width)) / width

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[tuple[int, int]]) -> list[Any]:
        time, width = self.phase + self.refresh() * self.period, 0.025 if fields[0][0] == 186 else 1.0
        self.now += 100e-6
        value = SimpleNamespace(uiVal=int(self.mean(time, width) * 1e3))
        return [SimpleNamespace(nvmlReturn=0, timestamp=int(time * 1e6), value=value)]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 45


@pytest.fixture
def simulate(script: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Simulated, Any]]:
    """A simulated GPU in the place of NVML and of the clock, and a watch that has seen a second of it."""

    def make(**options: Any) -> tuple[Simulated, Any]:
        gpu = Simulated(**options)
        monkeypatch.setattr(script, "time", gpu)
        monkeypatch.setattr(script, "nvml", lambda: gpu)
        monkeypatch.setattr("harness.meters.power_trace.nvml", lambda: gpu)
        watch = script.Watch(0)
        watch.wait_seconds(1.2)
        return gpu, watch

    return make


def short(script: Any, **changes: Any) -> Any:
    """A plan of a few simulated seconds."""
    seconds = {"phase_seconds": 3.5, "control_seconds": 6.0, "loop_seconds": 5.0}
    return script.Plan(**{**seconds, **changes})


def test_a_steady_loads_sources_agree(script: Any, simulate: Any, tmp_path: Path):
    gpu, watch = simulate()
    found = script.do_steady(watch, gpu, short(script), tmp_path)
    assert found["passes"] is True
    assert found["counter_joules"] == pytest.approx(BUSY * 10, rel=0.01)
    assert found["average_over_counter_ratio"] == pytest.approx(1, abs=0.005)
    assert found["instant_over_counter_ratio"] == pytest.approx(1, abs=0.005)
    assert abs(found["counter_joules"] - BUSY * 10) <= found["uncertainty_joules"]
    assert (tmp_path / "steady.parquet").stat().st_size > 1000


def test_a_counter_with_a_gain_error_does_not_pass(script: Any, simulate: Any, tmp_path: Path):
    gpu, watch = simulate()
    exact = gpu.nvmlDeviceGetTotalEnergyConsumption
    gpu.nvmlDeviceGetTotalEnergyConsumption = lambda handle: int(exact(handle) * 0.94)
    watch.rows.clear()
    assert script.do_steady(watch, gpu, short(script), tmp_path)["passes"] is False


def test_an_exact_counter_does_not_mind_the_phase_and_the_instant_field_does(
    script: Any, simulate: Any, tmp_path: Path
):
    gpu, watch = simulate()
    found = script.do_square(watch, gpu, short(script), tmp_path)
    assert found["passes"] is True
    assert found["counter_spread_ratio"] < 0.01
    assert found["instant_spread_ratio"] > 0.5
    assert found["control_over_phases_power_ratio"] == pytest.approx(1, abs=0.02)
    for number, run in enumerate(found["phases"]):
        off = (run["phase_ratio"] - number / 8 + 0.5) % 1 - 0.5
        assert abs(off) < 0.03, run
        assert run["phase_sharpness_ratio"] > 0.99
        assert run["cycle_seconds"] == pytest.approx(gpu.period, rel=0.001)
        assert run["longest_cycle_ratio"] < 1.1
    products = round(0.25 * 0.1001e9 / gpu.product_ns)
    energy = IDLE * gpu.period + (BUSY - IDLE) * products * gpu.product_ns / 1e9
    assert [run["counter_joules"] for run in found["phases"]] == pytest.approx([energy] * 8, rel=0.01)
    script.plot_square(tmp_path / "square.png", found, "simulated")
    assert (tmp_path / "square.png").stat().st_size > 5000
    json.dumps(found)


def test_a_counter_that_adds_up_what_its_sensor_samples_does_not_pass(script: Any, simulate: Any, tmp_path: Path):
    gpu, watch = simulate(sampled=True)
    found = script.square_summary(
        [phase(script, gpu, watch, number / 8) for number in (0, 2, 4, 6)], {"counter_joules": 1.0, "cycle_seconds": 1}
    )
    assert found["passes"] is False
    assert found["counter_spread_ratio"] > 0.3


def phase(script: Any, gpu: Simulated, watch: Any, number: float) -> dict[str, Any]:
    """One phase's summary."""
    first, update = len(watch.rows), len(watch.updates)
    beats = script.square_wave(watch, gpu, 3.5, number)
    return script.cycle_summary(watch.rows[first:], beats, watch.updates[update:])


@given(st.floats(0.02, 0.2), st.floats(0, 1), st.floats(0, 0.99), st.integers(0, 2**32), st.floats(0, 3))
def test_a_beat_is_set_at_its_phase_of_the_counters_updates_although_they_are_seen_late(
    script: Any, period: float, offset: float, phase: float, seed: int, later: float
):
    """Some moves are missed, and every one is seen up to 5% of a period late."""
    chance = np.random.default_rng(seed)
    numbers = np.flatnonzero(chance.random(60) > 0.2)
    seen = (numbers + offset + chance.uniform(0, 0.05, len(numbers))) * period * 1e9
    earliest = seen[-1] + later * period * 1e9
    beat = script.beat_after(list(seen), earliest, phase)
    assert earliest <= beat <= earliest + 1.1 * period * 1e9
    off = (beat / 1e9 / period - offset - phase - 0.025 + 0.5) % 1 - 0.5
    assert abs(off) < 0.1


def test_too_few_updates_are_an_error(script: Any):
    with pytest.raises(SystemExit, match="did not move"):
        script.next_update([1.0, 2.0], 0)


def test_the_watch_finds_the_refresh_periods_and_that_stamps_are_of_refreshes(script: Any, simulate: Any):
    gpu, watch = simulate()
    gpu.start(10**4)  # else idle power never moves
    watch.wait_seconds(3)
    found = script.watch_summary(watch.rows, watch.updates)
    for name in ("counter_period_seconds", "instant_period_seconds", "average_period_seconds"):
        assert found[name] == pytest.approx(gpu.period, rel=0.05), name
    assert found["instant_stamps_repeated_ratio"] > 0.9
    assert found["fields_read_seconds"] > 0


def test_the_long_loops_energy_of_a_step_is_the_loads(script: Any, simulate: Any):
    gpu, watch = simulate()
    found = script.long_loop(watch, gpu, short(script))
    steps = found["step_count"]
    assert steps > 900
    assert found["energy_per_step_joules"] * steps == pytest.approx(BUSY * found["window_seconds"], rel=0.03)


def run(joules: float | None, celsius: int = 45) -> dict[str, Any]:
    """What a trial or the loop gives."""
    return {"energy_per_step_joules": joules, "start_celsius": celsius, "step_seconds": [1.0]}


@pytest.mark.parametrize(
    ("trials", "loop", "passes"),
    [
        ([run(3.5), run(3.52), run(3.48)], run(3.5), True),
        ([run(3.5), run(3.52), run(3.48)], run(3.7), False),
        ([run(3.5), run(3.7), run(3.3)], run(3.5), False),
        ([run(3.5), run(3.52), run(3.48, 49)], run(3.5), False),
        ([run(3.5), run(None), run(3.48)], run(3.5), None),
        ([run(3.5), run(3.52), run(3.48)], run(None), None),
    ],
    ids=["agree", "differ from the loop", "vary", "start warm", "a trial unknown", "the loop unknown"],
)
def test_trials_pass_when_they_agree_with_the_loop_vary_little_and_start_alike(
    script: Any, trials: list[dict[str, Any]], loop: dict[str, Any], passes: bool | None
):
    found = script.steps_summary(trials, loop)
    assert found["passes"] is passes
    assert "step_seconds" not in found["trials"][0]


def test_an_unknown_phase_leaves_the_spread_unknown(script: Any):
    assert script.spread_ratio([1.0, None, 1.1]) is None
    assert script.spread_ratio([]) is None
    assert script.spread_ratio([0.9, 1.0, 1.1]) == pytest.approx(0.2)


def test_the_plans_fit_their_promised_times(script: Any):
    for plan, most in ((script.QUICK, 150), (script.Plan(), 480)):
        steady = 2 * plan.lead_seconds + plan.steady_seconds
        square = 2 + 9 * 0.4 + script.PHASES * plan.phase_seconds + plan.control_seconds
        steps = plan.trials * (plan.trial_seconds + 1) + plan.all_cool_seconds + plan.loop_seconds
        assert steady + square + steps + 20 <= most, "20 s for imports and the GPU's start"
