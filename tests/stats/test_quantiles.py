"""Quantiles are NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.quantiles import quantile

SAMPLES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60)


@given(SAMPLES, st.floats(0, 1))
def test_a_quantile_equals_numpys(values: list[float], fraction: float):
    assert quantile(values, fraction) == pytest.approx(float(np.quantile(values, fraction)), rel=1e-9, abs=1e-6)


@given(SAMPLES, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_with_their_fraction_and_stay_inside(values: list[float], one: float, other: float):
    low, high = sorted((one, other))
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= quantile(values, low) <= quantile(values, high) + slack <= max(values) + 2 * slack


@given(SAMPLES, st.floats(0, 1), st.randoms())
def test_the_order_of_samples_does_not_matter(values: list[float], fraction: float, chance: object):
    shuffled = list(values)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert quantile(shuffled, fraction) == quantile(values, fraction)
