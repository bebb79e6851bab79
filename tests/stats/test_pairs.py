"""Verdicts on paired ratios."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.pairs import holm, judge, sign_flip

LOGS = st.lists(st.floats(-1, 1).filter(lambda x: abs(x) > 1e-6), min_size=2, max_size=9)


@given(LOGS)
def test_the_sign_flip_p_value_is_that_of_a_brute_force_over_all_signs(logs: list[float]):
    sums = [
        abs(sum(s * x for s, x in zip(signs, logs, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(logs))
    ]
    expected = sum(total >= abs(sum(logs)) * (1 - 1e-12) for total in sums) / len(sums)
    assert sign_flip(logs) == pytest.approx(expected, abs=2 / len(sums))


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
