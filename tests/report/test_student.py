"""Student's t against its printed tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.intervals import mean_interval, ratio_interval
from harness.stats.student import cumulative, quantile


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042)]
)
def test_quantiles_of_the_printed_table(degrees, expected):
    assert quantile(0.975, degrees) == pytest.approx(expected, abs=5e-4)


@given(st.floats(-50, 50), st.integers(1, 60))
def test_the_distribution_is_symmetric(t, degrees):
    assert cumulative(t, degrees) + cumulative(-t, degrees) == pytest.approx(1)


def test_no_degrees_of_freedom_is_an_error():
    with pytest.raises(ValueError, match="two samples"):
        cumulative(1.0, 0)


def test_interval_by_hand():
    # mean 2, standard deviation 1, n = 3: half width 4.3027 / sqrt(3)
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.center, found.count) == (2.0, 3)
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_bounds():
    found = ratio_interval([math.log(2)])
    assert found.center == pytest.approx(2)
    assert found.low is None
    assert found.high is None
