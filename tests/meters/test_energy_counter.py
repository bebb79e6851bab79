"""Energy by a counter that moves ten times a second, against the integral of a known power."""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.meters.energy_counter import FEWEST_PERIODS, counter_energy

PERIOD = 0.1
#: A sampling thread that is asked for 20 ms and is late now and then.
LATEST_SAMPLE = 0.05


class Power:
    """Piecewise constant power in watts, and its exact integral."""

    def __init__(self, pieces: list[tuple[float, float]]) -> None:
        self.edges = list(accumulate((seconds for seconds, _ in pieces), initial=0.0))
        self.watts = [watts for _, watts in pieces]
        self.energy = list(accumulate((seconds * watts for seconds, watts in pieces), initial=0.0))

    def joules(self, time: float) -> float:
        """Energy from time 0; the last piece never ends."""
        index = min(bisect.bisect_right(self.edges, time) - 1, len(self.watts) - 1)
        return self.energy[index] + (time - self.edges[index]) * self.watts[index]


def readings(
    joules: Callable[[float], float], start: float, end: float, phase: float, seed: int
) -> list[tuple[int, float]]:
    """What a sampling thread sees of a counter that moves at `phase` + n periods and counts millijoules."""
    chance, now, found = random.Random(seed), start - 1e-4, []
    while True:
        ticks = (now - phase) // PERIOD
        found.append((int(now * 1e9), round(joules(phase + ticks * PERIOD), 3)))
        if now > end:
            return found
        now = min(now + chance.choice([0.02, 0.02, 0.02, 0.021, LATEST_SAMPLE]), max(now, end) + 1e-4)


def measured(power: Power, seconds: float, phase: float, seed: int) -> tuple[float, float]:
    """Joules by the counter and in truth."""
    start, end = 1.0, 1.0 + seconds
    found = counter_energy(readings(power.joules, start, end, phase, seed), int(start * 1e9), int(end * 1e9))
    assert found.joules is not None, found.reason
    assert found.period_seconds == pytest.approx(PERIOD, rel=0.3)
    return found.joules, power.joules(end) - power.joules(start)


WINDOWS = st.floats(3.0, 12.0)
PHASES = st.floats(0, PERIOD, exclude_max=True)
SEEDS = st.integers(0, 2**32)


@given(st.floats(20, 700), WINDOWS, PHASES, SEEDS)
def test_a_constant_power_is_known_to_less_than_one_periods_energy(
    watts: float, seconds: float, phase: float, seed: int
):
    joules, truth = measured(Power([(100.0, watts)]), seconds, phase, seed)
    assert abs(joules - truth) < watts * PERIOD


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0.005, 0.4), st.floats(420, 700)), min_size=40, max_size=120), WINDOWS, PHASES, SEEDS
)
def test_a_varying_load_is_known_to_less_than_one_periods_energy(
    pieces: list[tuple[float, float]], seconds: float, phase: float, seed: int
):
    joules, truth = measured(Power([(1.0, 500.0), *pieces]), seconds, phase, seed)
    assert abs(joules - truth) < 700 * PERIOD


@settings(max_examples=150)
@given(st.floats(0.02, 0.5), st.floats(0.1, 0.9), WINDOWS, PHASES, SEEDS)
def test_bursts_between_idle_and_full_load_are_known_to_two_periods_energy(
    cycle: float, duty: float, seconds: float, phase: float, seed: int
):
    # The window's edges lie up to a period from a tick, and there the power is the window's mean only by assumption.
    pieces = [(cycle * duty, 700.0), (cycle * (1 - duty), 100.0)] * int(16 / cycle)
    joules, truth = measured(Power(pieces), seconds, phase, seed)
    assert abs(joules - truth) < 2 * 700 * PERIOD


@given(st.floats(20, 700), st.floats(0.0, 1.5), PHASES, SEEDS)
def test_a_window_of_too_few_periods_is_null_with_a_reason(watts: float, seconds: float, phase: float, seed: int):
    start, end = 1.0, 1.0 + seconds
    seen = readings(Power([(100.0, watts)]).joules, start, end, phase, seed)
    found = counter_energy(seen, int(start * 1e9), int(end * 1e9))
    assert found.joules is None
    assert found.reason
    assert found.periods < FEWEST_PERIODS


def test_a_counter_that_stands_still_is_null_and_never_zero():
    found = counter_energy([(i * 20_000_000, 5.0) for i in range(500)], 0, 10**10)
    assert found.joules is None
    assert "did not move" in found.reason


def test_no_reading_at_all_is_null():
    assert counter_energy([], 0, 10**10).joules is None
