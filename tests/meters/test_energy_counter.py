"""Energy by a counter that moves now and then, against the integral of a known power."""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.meters.energy_counter import FEWEST_PERIODS, STUCK_PERIODS, counter_energy

LIMIT_WATTS = 700.0
START = 1.0


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


@dataclass
class Counter:
    """Moves at `phase` + n `period`s to the energy until then, in whole `quantum`s of millijoules."""

    power: Power
    period: float = 0.1
    phase: float = 0.0
    quantum: int = 1

    def millijoules(self, now: float) -> int:
        ticks = (now - self.phase) // self.period
        return int(self.power.joules(self.phase + ticks * self.period) * 1e3) // self.quantum * self.quantum


def readings(
    millijoules: Callable[[float], int], end: float, seed: int, spacing: float = 0.02, stall: float = 0.0
) -> list[tuple[int, float]]:
    """What a thread that reads every `spacing` seconds sees, from just before START until a move after `end`.

    It is late now and then, and once by `stall` seconds, as when another thread holds the interpreter.
    """
    chance, now, found = random.Random(seed), START - 1e-4, []
    stalls_at = START + chance.random() * (end - START)
    last = None
    while True:
        found.append((int(now * 1e9), millijoules(now) / 1e3))
        if now > end:
            last = found[-1][1] if last is None else last
            if found[-1][1] != last or now > end + 1.0:
                return found
        step = chance.choice([spacing, spacing, 1.05 * spacing, 2.5 * spacing])
        if now <= stalls_at < now + step:
            step += stall
        now = end + 1e-4 if now <= end < now + step else now + step


def measured(counter: Counter, seconds: float, seed: int, stall: float = 0.0):
    """What the counter gives, and the true joules."""
    end = START + seconds
    seen = readings(counter.millijoules, end, seed, counter.period / 5, stall)
    found = counter_energy(seen, int(START * 1e9), int(end * 1e9), LIMIT_WATTS)
    return found, counter.power.joules(end) - counter.power.joules(START)


SEEDS = st.integers(0, 2**32)
PERIODS = st.floats(0.02, 0.2)
#: Windows in periods of the counter.
ENOUGH = st.floats(24, 150)
QUANTA = st.sampled_from([1, 1, 10, 137, 1000])
STEADY = st.floats(20, 700).map(lambda watts: Power([(100.0, watts)]))
VARYING = st.lists(st.tuples(st.floats(0.005, 0.4), st.floats(60, 700)), min_size=10, max_size=120).map(Power)
BURSTS = st.tuples(st.floats(0.02, 0.5), st.floats(0.1, 0.9)).map(
    lambda burst: Power([(burst[0] * burst[1], 700.0), (burst[0] * (1 - burst[1]), 75.0)] * int(40 / burst[0]))
)
POWERS = st.one_of(STEADY, VARYING, BURSTS)


@st.composite
def counters(draw: st.DrawFn) -> Counter:
    """A counter of any phase, period and quantum, on a part under any load."""
    period = draw(PERIODS)
    return Counter(draw(POWERS), period, draw(st.floats(0, 1)) * period, draw(QUANTA))


@settings(max_examples=300)
@given(counters(), ENOUGH, SEEDS, st.sampled_from([0.0, 0.0, 0.3]))
def test_the_truth_lies_within_the_stated_uncertainty(counter: Counter, periods: float, seed: int, stall: float):
    found, truth = measured(counter, periods * counter.period, seed, stall)
    assume(found.joules is not None or found.periods < FEWEST_PERIODS)  # a quantum may hide most moves
    if found.joules is not None:
        assert abs(found.joules - truth) <= found.uncertainty_joules + 1e-6 * truth


EDGE = st.tuples(st.floats(0.0, 2.0), st.sampled_from([0.01, 700.0]), st.sampled_from([0.01, 700.0]), st.floats(0, 2.0))


@settings(max_examples=400)
@given(st.integers(22, 60), EDGE, EDGE, st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.sampled_from([1, 1000]), SEEDS)
def test_the_truth_lies_within_it_when_the_load_is_at_its_worst_around_the_edges(
    periods: int, first: Any, last: Any, at_start: float, at_end: float, quantum: int, seed: int
):
    """Nothing or everything just before and after the edges, where the counter's moves may fall."""
    period = 0.1
    seconds = (periods + at_end) * period
    inside = seconds - (first[3] + last[0]) * period
    pieces = [(START - first[0] * period, 75.0), (first[0] * period, first[1]), (first[3] * period, first[2])]
    pieces += [(inside, 75.0), (last[0] * period, last[1]), (last[3] * period, last[2]), (10.0, 75.0)]
    counter = Counter(Power(pieces), period, (at_start * period) % period, quantum)
    found, truth = measured(counter, seconds, seed)
    if found.joules is None:  # as good as no power for a while is a counter that stands still
        assert "stood still" in found.reason or found.periods < FEWEST_PERIODS
    else:
        assert abs(found.joules - truth) <= found.uncertainty_joules + 1e-6 * truth


@settings(max_examples=100)
@given(st.one_of(STEADY, VARYING), ENOUGH, PERIODS, st.floats(0, 1), SEEDS)
def test_a_counter_of_millijoules_is_believed_and_off_by_four_periods_at_most(
    power: Power, periods: float, period: float, phase: float, seed: int
):
    counter = Counter(power, period, phase * period)
    found, truth = measured(counter, periods * period, seed)
    assert found.joules is not None, found.reason
    assert found.period_seconds == pytest.approx(period, rel=0.3)
    assert abs(found.joules - truth) <= 2 * 700 * period


def test_the_uncertainty_of_a_noisy_steady_load_is_about_a_period_at_each_edge():
    chance = random.Random(0)
    power = Power([(0.013, 500 + chance.uniform(-20, 20)) for _ in range(2000)])
    for phase in range(10):
        found, _ = measured(Counter(power, 0.1, phase / 100), 5.0, phase)
        assert 0 < found.uncertainty_joules < 3 * 50


def test_a_constant_power_is_known_to_less_than_one_periods_energy():
    for phase in range(20):
        found, truth = measured(Counter(Power([(100.0, 431.0)]), 0.1, phase / 200), 3.3, phase)
        assert found.joules == pytest.approx(truth, abs=431 * 0.1)


@given(counters(), st.floats(0.0, 14), SEEDS)
def test_a_window_of_too_few_periods_is_null_with_a_reason(counter: Counter, periods: float, seed: int):
    found, _ = measured(counter, periods * counter.period, seed)
    assert (found.joules, found.uncertainty_joules) == (None, None)
    assert found.reason


@pytest.mark.parametrize(("periods", "given_energy"), [(18.5, False), (19.5, False), (20.5, True), (21.5, True)])
def test_twenty_periods_are_the_border(periods: float, given_energy: bool):
    counter = Counter(Power([(100.0, 500.0)]), 0.1, 0.033)
    seen = readings(counter.millijoules, START + periods / 10, 0, spacing=0.001)
    found = counter_energy(seen, int(START * 1e9), int((START + periods / 10) * 1e9))
    assert (found.joules is not None) is given_energy
    assert found.periods == pytest.approx(periods, rel=0.01)


class Broken:
    """A counter that goes wrong at a moment of its window."""

    def __init__(self, counter: Counter, at: float) -> None:
        self.counter, self.at = counter, at

    def reset(self, now: float) -> int:
        """Begins anew."""
        value = self.counter.millijoules
        return value(now) if now < self.at else value(now) - value(self.at)

    def stuck(self, now: float) -> int:
        """Never moves again."""
        return self.counter.millijoules(min(now, self.at))

    def asleep(self, now: float) -> int:
        """Stands still for a while, and then catches up."""
        length = (STUCK_PERIODS + 3) * self.counter.period
        return self.counter.millijoules(self.at if self.at <= now < self.at + length else now)

    def jump(self, now: float) -> int:
        """Gains 5 kJ from nowhere."""
        return self.counter.millijoules(now) + (5_000_000 if now >= self.at else 0)


REASONS = {"reset": "went backwards", "stuck": "stood still", "asleep": "stood still", "jump": "jumped"}


@pytest.mark.parametrize("fault", REASONS)
@given(power=st.one_of(STEADY, VARYING), period=PERIODS, phase=st.floats(0, 1), at=st.floats(0.1, 0.7), seed=SEEDS)
def test_a_counter_that_breaks_in_the_window_is_null_and_says_how(
    fault: str, power: Power, period: float, phase: float, at: float, seed: int
):
    end = START + 40 * period
    broken = Broken(Counter(power, period, phase * period), START + at * 40 * period)
    seen = readings(getattr(broken, fault), end, seed, period / 5)
    found = counter_energy(seen, int(START * 1e9), int(end * 1e9), LIMIT_WATTS)
    assert found.joules is None
    assert REASONS[fault] in found.reason


@given(counters(), ENOUGH, SEEDS)
def test_an_end_that_no_later_reading_bounds_is_null(counter: Counter, periods: float, seed: int):
    end = START + periods * counter.period
    seen = [item for item in readings(counter.millijoules, end, seed, counter.period / 5) if item[0] <= end * 1e9]
    found = counter_energy(seen, int(START * 1e9), int(end * 1e9), LIMIT_WATTS)
    assert found.joules is None
    assert found.reason


def test_a_counter_that_stands_still_is_null_and_never_zero():
    found = counter_energy([(i * 20_000_000, 5.0) for i in range(500)], 0, 10**10)
    assert found.joules is None
    assert "did not move" in found.reason


def test_no_reading_at_all_is_null():
    assert counter_energy([], 0, 10**10).joules is None
