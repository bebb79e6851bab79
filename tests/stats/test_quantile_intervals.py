"""Intervals of quantiles by order statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.quantiles import interval_places, quantile, quantile_interval


def at_most(successes: int, count: int, fraction: float) -> float:
    return math.fsum(math.comb(count, k) * fraction**k * (1 - fraction) ** (count - k) for k in range(successes + 1))


@given(st.integers(1, 150), st.sampled_from([0.1, 0.25, 0.5, 0.9, 0.95]), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_places_are_the_tightest_that_miss_in_few_enough_cases(count: int, fraction: float, level: float):
    tail = (1 - level) / 2
    lows = [k for k in range(count) if at_most(k, count, fraction) <= tail]
    highs = [k for k in range(count) if at_most(k, count, fraction) >= 1 - tail]
    expected = (max(lows), min(highs)) if lows and highs else None
    assert interval_places(count, fraction, level) == expected


@pytest.mark.parametrize(("count", "fraction"), [(100, 0.9), (1000, 0.99), (150, 0.9), (30, 0.5), (20_000, 0.99)])
def test_the_interval_covers_the_quantile_as_often_as_it_says(count: int, fraction: float):
    # Uniform samples stand for any continuous distribution: order statistics move with it.
    repeats = 4000 if count <= 1000 else 400
    places = interval_places(count, fraction)
    assert places is not None
    generator = np.random.default_rng(1)
    missed_low = missed_high = 0
    for _ in range(repeats // 200):
        ordered = np.sort(generator.random((200, count)), axis=1)
        missed_low += int((ordered[:, places[0]] > fraction).sum())
        missed_high += int((ordered[:, places[1]] < fraction).sum())
    margin = 2.6 * math.sqrt(0.025 * 0.975 / repeats)
    assert missed_low / repeats <= 0.025 + margin
    assert missed_high / repeats <= 0.025 + margin
    # Order statistics come in steps, so the coverage is above what was asked for, but not by much.
    assert (missed_low + missed_high) / repeats >= 0.015 - 2 * margin


@given(st.lists(st.floats(0, 1e6), min_size=100, max_size=300), st.sampled_from([0.5, 0.9]))
def test_the_estimate_lies_inside_its_interval(values: list[float], fraction: float):
    found = quantile_interval(values, fraction)
    assert found is not None
    assert found[0] <= quantile(values, fraction) <= found[1]
    assert {*found} <= {*values}


def test_too_few_samples_have_no_interval():
    assert quantile_interval([1.0, 2.0, 3.0], 0.5) is None
    assert quantile_interval([float(i) for i in range(50)], 0.99) is None
