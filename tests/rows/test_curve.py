"""What a target took, from a curve and step times alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.rows.curve import ENERGY, TO_TARGET, curve_columns, curve_seconds


def row_of(**changed: Any) -> dict[str, Any]:
    """Six steps of 10 tokens, evaluated after none, 2, 4 and 6 of them."""
    return {
        "warmup_step_seconds": [3.0],
        "step_seconds": [1.0, 1.0, 2.0, 1.0, 1.0],
        "step_tokens_count": 10,
        "step_model_flops": 1e6,
        "curve_tokens_count": [0.0, 20.0, 40.0, 60.0],
        "curve_quality_bits_per_byte": [8.0, 5.0, 3.0, 4.0],
        "window_seconds": 8.0,
        "gpu_energy_joules": 800.0,
        "facts": {"target_bits_per_byte": 4.0},
        "reasons": {},
        **changed,
    }


def test_the_first_evaluation_at_the_target_counts_with_all_steps_before_it():
    found, reasons, facts = curve_columns(row_of())
    assert found["curve_seconds"] == [0.0, 4.0, 7.0, 9.0]
    # 100 W over 7 seconds, of which 3 lay before the window.
    assert [found[name] for name in TO_TARGET] == [7.0, 40.0, 4e6, 700.0]
    assert (reasons, facts) == ({}, {"target_reached": True})


def test_a_miss_is_said_and_has_no_numbers():
    found, reasons, facts = curve_columns(row_of(facts={"target_bits_per_byte": 2.9}))
    assert [found[name] for name in TO_TARGET] == [None] * 4
    assert facts == {"target_reached": False}
    assert set(reasons) == set(TO_TARGET)
    assert "not reached within the budget; the best was 3.0000" in reasons[ENERGY]


def test_without_a_target_there_is_a_curve_alone():
    found, reasons, facts = curve_columns(row_of(facts={"target_bits_per_byte": None}))
    assert facts == {}
    assert found["curve_seconds"][-1] == 9.0
    assert {"no target was set (workload.target_bits_per_byte)"} == set(reasons.values())


def test_what_is_unknown_is_null_with_its_own_reason():
    found, reasons, _ = curve_columns(
        row_of(step_model_flops=None, gpu_energy_joules=None, reasons={"gpu_energy_joules": "no GPU"})
    )
    assert (found["seconds_to_target_seconds"], found[ENERGY]) == (7.0, None)
    assert reasons == {
        "flops_to_target_flops": "the model's operations have no closed form",
        ENERGY: "no GPU",
    }


def test_a_row_without_a_curve_gets_nothing():
    assert curve_columns({"step_seconds": [1.0]}) == ({}, {}, {})


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=60), st.data())
def test_seconds_are_those_of_the_steps_before(times: list[float], data: st.DataObject):
    warm = data.draw(st.integers(1, len(times) - 1))
    steps = sorted(data.draw(st.sets(st.integers(0, len(times)), min_size=1)))
    row = row_of(
        warmup_step_seconds=times[:warm],
        step_seconds=times[warm:],
        step_tokens_count=7,
        curve_tokens_count=[7.0 * step for step in steps],
    )
    assert curve_seconds(row) == pytest.approx([sum(times[:step]) for step in steps])
