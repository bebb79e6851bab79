"""Kendall's tau-b against its definition by counting, and at known values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.agreement import kendall_tau

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=0, max_size=12)


@given(PAIRS)
def test_it_is_what_counting_gives(pairs: list[tuple[int, int]]):
    agree = differ = ties_first = ties_second = ties_both = 0
    for i, (a, x) in enumerate(pairs):
        for b, y in pairs[:i]:
            if a == b and x == y:
                ties_both += 1
            elif a == b:
                ties_first += 1
            elif x == y:
                ties_second += 1
            elif (a < b) == (x < y):
                agree += 1
            else:
                differ += 1
    below = math.sqrt((agree + differ + ties_first) * (agree + differ + ties_second))
    found = kendall_tau(*zip(*pairs, strict=True)) if pairs else kendall_tau([], [])
    assert found == (pytest.approx((agree - differ) / below) if below else None)


@given(PAIRS.filter(lambda pairs: len(pairs) > 1))
def test_it_depends_on_order_only_and_turns_with_it(pairs: list[tuple[int, int]]):
    first, second = zip(*pairs, strict=True)
    tau = kendall_tau(first, second)
    assert kendall_tau(second, first) == tau
    assert kendall_tau([math.exp(x) for x in first], second) == tau
    turned = kendall_tau([-x for x in first], second)
    assert turned == (None if tau is None else -tau)
    assert tau is None or -1 <= tau <= 1


def test_known_values():
    # scipy.stats.kendalltau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) gives -0.4714045207910316 (its documentation).
    assert kendall_tau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.47140452079103173)
    assert kendall_tau([1, 2, 3], [1, 2, 3]) == 1
    assert kendall_tau([1, 2, 3], [5, 5, 5]) is None


def test_rankings_of_different_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        kendall_tau([1, 2], [1])


def test_scipy_agrees_where_it_is_installed():
    stats = pytest.importorskip("scipy.stats")
    first, second = [1, 2, 2, 4, 5, 3, 3], [2, 1, 3, 3, 5, 4, 2]
    assert kendall_tau(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)
