"""Verdicts on paired ratios."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats import student
from harness.stats.pairs import (
    MOST_FLIPPED,
    Column,
    holm,
    judge,
    judge_columns,
    least_pairs,
    p_value,
    sign_flip,
    t_test,
)

LOGS = st.lists(st.floats(-1, 1).filter(lambda x: abs(x) > 1e-6), min_size=2, max_size=9)


@given(LOGS)
def test_the_sign_flip_p_value_is_that_of_a_brute_force_over_all_signs(logs: list[float]):
    sums = [
        abs(sum(s * x for s, x in zip(signs, logs, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(logs))
    ]
    expected = sum(total >= abs(sum(logs)) * (1 - 1e-12) for total in sums) / len(sums)
    assert sign_flip(logs) == pytest.approx(expected)


@given(LOGS)
def test_swapping_the_variants_mirrors_the_verdict(logs: list[float]):
    ratios = [math.exp(x) for x in logs]
    forward = judge(ratios, 0.02, ("less", "more"))
    backward = judge([1 / x for x in ratios], 0.02, ("more", "less"))
    assert forward.ratio == pytest.approx(1 / backward.ratio)
    assert forward.text == backward.text or "within" in forward.text + backward.text


def test_fewer_than_six_pairs_never_claim_a_difference():
    assert judge([0.5, 0.51, 0.5, 0.49, 0.5], 0.02).text.startswith("ambiguous: fewer than 6")


def test_a_clear_difference_is_claimed_and_named_by_its_direction():
    ratios = [0.80, 0.81, 0.79, 0.80, 0.82, 0.80, 0.81]
    assert judge(ratios, 0.02, ("faster", "slower")).text == "A is faster"
    assert judge([1 / x for x in ratios], 0.02, ("faster", "slower")).text == "A is slower"


def test_an_interval_inside_the_margin_is_the_same():
    assert judge([1.001, 0.999, 1.0, 1.002, 0.998, 1.0], 0.02).text == "the same within 2.0%"


def test_equal_variants_are_told_apart_in_at_most_five_percent_of_experiments():
    generator = random.Random(1)
    claims = 0
    for _ in range(2000):
        ratios = [math.exp(generator.gauss(0, 0.05)) for _ in range(10)]
        claims += judge(ratios, 0.0).text.startswith("A is")
    # 119 of 2000 is the 97.5% point of a binomial at 5%.
    assert claims <= 119


def test_a_two_percent_difference_is_found_at_one_percent_noise():
    generator = random.Random(2)
    found = [judge([1.02 * math.exp(generator.gauss(0, 0.01)) for _ in range(10)], 0.0).text for _ in range(200)]
    assert sum(text == "A is more" for text in found) >= 160
    assert not any(text == "A is less" for text in found)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]):
    adjusted = holm(p_values)
    assert all(after >= before for before, after in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
    assert min(adjusted) == pytest.approx(min(1.0, len(p_values) * min(p_values)))


def with_t(t: float, count: int) -> list[float]:
    """Values whose t statistic is `t`: alternating deviations around a mean."""
    deviations = [1.0, -1.0] * (count // 2) + [0.0] * (count % 2)
    error = math.sqrt(sum(d * d for d in deviations) / (count - 1) / count)
    return [t * error + d for d in deviations]


@pytest.mark.parametrize(
    ("t", "count", "expected"),
    [
        (1.0, 2, 0.5),  # one degree of freedom: 1 - 2 atan(t) / pi
        (2.0, 3, 1 - 2 / math.sqrt(6)),  # two: 1 - t / sqrt(t^2 + 2)
        (2.571, 6, 0.05),  # printed tables
        (2.228, 11, 0.05),
        (2.750, 31, 0.01),
        (0.0, 9, 1.0),
    ],
)
def test_the_t_tests_p_value_is_that_of_closed_forms_and_tables(t: float, count: int, expected: float):
    assert t_test(with_t(t, count)) == pytest.approx(expected, abs=1e-4)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40))
def test_the_interval_excludes_one_exactly_where_the_t_test_is_significant(logs: list[float]):
    found, p = judge([math.exp(x) for x in logs], 0.0), t_test(logs)
    assert found.low is not None
    assert found.high is not None
    if abs(p - 0.05) > 1e-6 and abs(math.log(found.ratio)) > 1e-9:
        assert (found.low > 1 or found.high < 1) == (p < 0.05)


def test_pairs_without_any_spread_differ_surely_or_not_at_all():
    assert t_test([0.0] * 20) == 1
    assert t_test([0.25] * 20) == 0
    assert judge([1.0] * 8, 0.0).text == "the same within 0.0%"
    assert judge([1.25] * 8, 0.0).text == "A is more"


@given(st.lists(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=18), min_size=1, max_size=5), st.floats(0, 0.1))
def test_a_verdict_never_contradicts_its_p_value(columns: list[list[float]], same_within: float):
    for found in judge_columns([Column([math.exp(x) for x in each]) for each in columns], same_within):
        assert found.p_value <= found.adjusted_p_value <= 1
        assert found.differs == (found.adjusted_p_value <= 0.05)
        if found.text.startswith("A is"):
            assert found.differs
            assert found.low is not None
            assert found.high is not None
            assert found.low > 1 or found.high < 1
        if found.text.startswith("ambiguous"):
            assert not found.differs


@given(st.integers(1, 30))
def test_below_the_least_number_of_pairs_no_difference_is_claimed_and_from_it_on_there_is(columns: int):
    least = least_pairs(columns)
    assert columns * 2 ** (1 - least) <= 0.05 < columns * 2 ** (2 - least)
    few, enough = ([Column([1.5 + 0.01 * i for i in range(n)])] * columns for n in (least - 1, least))
    assert all(found.text == f"ambiguous: fewer than {least} pairs" for found in judge_columns(few, 0.02))
    assert all(found.text == "A is more" for found in judge_columns(enough, 0.02))


def test_beyond_the_sign_patterns_the_t_test_alone_decides():
    generator = random.Random(3)
    logs = [generator.gauss(0.01, 0.02) for _ in range(MOST_FLIPPED + 1)]
    assert p_value(logs) == t_test(logs)
    assert p_value(logs[:-1]) == max(t_test(logs[:-1]), sign_flip(logs[:-1]))


def test_a_column_that_differs_alone_but_not_among_many_says_so():
    # t = 2.5 with 19 degrees of freedom: p = 0.022, among four columns 0.087.
    alone = [math.exp(x / 100) for x in with_t(2.5, 20)]
    assert judge(alone, 0.0).text == "A is more"
    others = [Column([math.exp(x / 100) for x in with_t(0.1, 20)])] * 3
    found = judge_columns([Column(alone), *others], 0.0)[0]
    assert found.text == "ambiguous: a difference alone, not among 4 columns"
    assert found.p_value == pytest.approx(2 * (1 - student.cumulative(2.5, 19)))


@pytest.mark.parametrize("count", [8, 20])
def test_equal_variants_with_four_columns_are_told_apart_in_at_most_five_percent_of_experiments(count: int):
    generator = random.Random(count)
    claims = 0
    for _ in range(1000):
        columns = [Column([math.exp(generator.gauss(0, 0.05)) for _ in range(count)]) for _ in range(4)]
        claims += any(found.differs for found in judge_columns(columns, 0.0))
    # 64 of 1000 is the 97.5% point of a binomial at 5%.
    assert claims <= 64
