"""What every technique owes, on every workload it fits: a row, a visible change, a finite quality, or a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

CONF = Path(__file__).parents[2] / "conf"
#: Compiles a kernel for half a minute in each trial; `test_backends.py` runs it in one process.
SLOW = {"attention_flex"}
TECHNIQUES = sorted({path.stem for path in (CONF / "technique").glob("*.yaml")} - SLOW)
EXPERTS = [f"experts_{kernel}" for kernel in ("eager", "grouped", "batched")]
STACKS = ["int8+lora", "nf4+lora", "gqa+lora+gradient_checkpointing", *(f"moe+{name}" for name in EXPERTS)]
WORKLOADS = sorted(path.stem for path in (CONF / "workload").glob("*.yaml"))
PAIRS = [(technique, workload) for technique in [*TECHNIQUES, *STACKS] for workload in WORKLOADS]

Rows = dict[tuple[str, str], dict[str, Any]]


@pytest.mark.parametrize(("technique", "workload"), PAIRS, ids=lambda name: name)
def test_a_technique_is_measured_or_says_why_not(technique: str, workload: str, contract: Rows):
    row = contract[technique, workload]
    assert row["status"] in ("ok", "skipped"), row["reason"]
    if row["status"] == "skipped":
        assert row["reason"]
        return
    assert row["flags"] == []
    assert row["tokens_counted_count"] == row["tokens_expected_count"] > 0
    changes = json.loads(row["changed_json"])
    assert set(changes) == set(technique.split("+"))
    assert [name for name, change in changes.items() if not change and name != "none"] == []
    if workload == "attention":
        return  # one layer predicts nothing
    assert row["quality_bits_per_byte"] is not None
    assert math.isfinite(row["quality_bits_per_byte"])
    assert 0 < row["quality_bits_per_byte"] < 12


def test_the_baseline_is_measured_on_every_workload_and_changes_nothing(contract: Rows):
    for workload in WORKLOADS:
        row = contract["none", workload]
        assert (row["status"], json.loads(row["changed_json"])) == ("ok", {"none": ""})


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_technique_is_measured_somewhere(technique: str, contract: Rows):
    reasons = {contract[technique, workload]["reason"] for workload in WORKLOADS}
    if any(contract[technique, workload]["status"] == "ok" for workload in WORKLOADS):
        return
    stacked = [row for (name, _), row in contract.items() if technique in name.split("+")[1:]]
    assert any(row["status"] == "ok" for row in stacked) or any("not installed" in str(why) for why in reasons), reasons


def measured(contract: Rows, technique: str, workload: str) -> dict[str, Any]:
    row = contract[technique, workload]
    if row["status"] == "skipped" and "not installed" in row["reason"]:
        pytest.skip(row["reason"])
    assert row["status"] == "ok", row["reason"]
    return row


@pytest.mark.parametrize("workload", ["train_step", "prefill", "generate"])
def test_what_memory_a_row_reports_fits_together(workload: str, contract: Rows):
    row = contract["none", workload]
    assert row["weights_bytes"] < row["peak_allocated_bytes"] < row["peak_host_bytes"]
    if workload == "train_step":
        assert row["gradient_bytes"] == 4 * row["trainable_parameter_count"]
        assert 8 <= row["optimizer_state_bytes"] / row["trainable_parameter_count"] < 8.01
    else:
        assert row["kv_cache_bytes"] > 0


def test_grouped_heads_shrink_the_cache_by_their_number(contract: Rows):
    plain, gqa, mqa = (contract[name, "generate"]["kv_cache_bytes"] for name in ("none", "gqa", "mqa"))
    assert (gqa / plain, mqa / plain) == (1 / 2, 1 / 4)


def test_bfloat16_halves_the_weights(contract: Rows):
    half, plain = contract["bf16", "prefill"], contract["none", "prefill"]
    assert half["weights_bytes"] / plain["weights_bytes"] == pytest.approx(0.5, rel=0.01)
    assert half["kv_cache_bytes"] / plain["kv_cache_bytes"] == 0.5


def test_eight_bits_quarter_the_linear_layers(contract: Rows):
    ratio = contract["int8", "prefill"]["weights_bytes"] / contract["none", "prefill"]["weights_bytes"]
    assert 0.25 < ratio < 0.35


def test_adapters_are_all_that_trains(contract: Rows):
    row, plain = contract["lora", "train_step"], contract["none", "train_step"]
    added = row["parameter_count"] - plain["parameter_count"]
    assert row["trainable_parameter_count"] == added > 0
    assert row["gradient_bytes"] == 4 * added
    assert row["optimizer_state_bytes"] < 0.2 * plain["optimizer_state_bytes"]


def test_an_8_bit_optimizer_holds_a_quarter_of_the_state(contract: Rows):
    row, plain = measured(contract, "adam8bit", "train_step"), contract["none", "train_step"]
    assert row["optimizer_state_bytes"] < 0.4 * plain["optimizer_state_bytes"]


def test_lion_holds_half_of_adams_state(contract: Rows):
    row, plain = measured(contract, "lion", "train_step"), contract["none", "train_step"]
    assert row["optimizer_state_bytes"] / plain["optimizer_state_bytes"] == pytest.approx(0.5, rel=0.01)


def test_zeroth_order_training_holds_no_gradients_and_no_state(contract: Rows):
    row, plain = contract["mezo", "train_step"], contract["none", "train_step"]
    assert row["gradient_bytes"] == 0
    assert row["optimizer_state_bytes"] is None
    assert row["peak_allocated_bytes"] < 0.6 * plain["peak_allocated_bytes"]
    # Two forward passes, where backpropagation costs one and a backward pass of twice that.
    assert row["step_model_flops"] / plain["step_model_flops"] == pytest.approx(2 / 3)


def test_recomputed_activations_lower_the_peak_and_not_the_loss(contract: Rows):
    row, plain = contract["gradient_checkpointing", "train_step"], contract["none", "train_step"]
    assert row["quality_bits_per_byte"] == pytest.approx(plain["quality_bits_per_byte"], abs=1e-3)
    assert row["peak_allocated_bytes"] < 0.9 * plain["peak_allocated_bytes"]
    assert row["step_model_flops"] == plain["step_model_flops"], "recomputation is not the method's work"


def test_training_learns(contract: Rows):
    for technique in ("none", "lora", "gqa", "moe"):
        row = contract[technique, "train_step"]
        assert row["quality_bits_per_byte"] < row["quality_before_bits_per_byte"], technique


def test_a_static_cache_predicts_what_a_growing_one_does(contract: Rows):
    for workload in ("prefill", "generate", "decode"):
        row, plain = contract["static_cache", workload], contract["none", workload]
        assert row["quality_bits_per_byte"] == pytest.approx(plain["quality_bits_per_byte"], abs=1e-3)


@pytest.mark.parametrize(("technique", "most"), [("bf16", 0.05), ("int8", 0.05), ("nf4", 0.3), ("kv_int4", 0.3)])
def test_rounding_costs_little_quality(technique: str, most: float, contract: Rows):
    row, plain = measured(contract, technique, "prefill"), contract["none", "prefill"]
    assert abs(row["quality_bits_per_byte"] - plain["quality_bits_per_byte"]) < most
