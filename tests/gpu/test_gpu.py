"""The contracts again on an NVIDIA GPU: its counter, its clocks, its memory, and every technique."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.meters.energy import Energy
from harness.meters.memory import Memory
from harness.meters.utilization import Utilization
from harness.protocol import Protocol
from harness.run.measure import Timings, make_clock, measure
from tests.gpu.loads import SIZE, Products

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]


@pytest.fixture(scope="module")
def window() -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Values and reasons of every meter over at least three seconds of products."""
    meters = [Memory(), Utilization(), Energy()]
    for meter in meters:
        meter.open("cuda")
        meter.phase("load")
    protocol = Protocol(minimum_seconds=3.2, maximum_seconds=6)
    found = measure(Products(), protocol, "cuda", meters, None)
    values: dict[str, Any] = {}
    reasons: dict[str, Any] = {}
    for meter in meters:
        readings = meter.readings(found.window)
        values |= readings.values
        reasons |= readings.reasons
    return values, reasons, found


def test_the_counters_energy_is_power_times_time(window: Any):
    values, reasons, found = window
    assert values["gpu_energy_joules"] is not None, reasons["gpu_energy_joules"]
    assert values["gpu_power_mean_watts"] * found.window.seconds == pytest.approx(values["gpu_energy_joules"])
    assert values["gpu_counter_period_seconds"] == pytest.approx(0.1, rel=0.5)
    assert 0 < values["gpu_idle_power_watts"] < values["gpu_power_mean_watts"]
    assert values["gpu_power_mean_watts"] <= values["gpu_power_maximum_watts"] * 1.05


def test_energy_stays_below_the_power_limit(window: Any):
    from harness.machine.gpu import gpu_facts

    values, _, found = window
    assert values["gpu_energy_joules"] < gpu_facts()["power_limit_watts"] * found.window.seconds * 1.05


def test_allocated_is_reserved_is_on_the_device(window: Any):
    values, _, _ = window
    total = torch.cuda.get_device_properties(0).total_memory
    assert 2 * SIZE**2 * 2 <= values["peak_allocated_bytes"] <= values["peak_reserved_bytes"]
    assert values["peak_reserved_bytes"] <= values["peak_device_bytes"] <= total * 1.1
    assert values["mean_allocated_bytes"] <= values["peak_allocated_bytes"]


def test_large_products_reach_much_of_the_roof_and_never_more(window: Any):
    values, reasons, _ = window
    if values["mfu_ratio"] is None:
        pytest.skip(reasons["mfu_ratio"])
    assert 0.4 < values["mfu_ratio"] <= 1
    assert 0 < values["mbu_ratio"] <= 1
    for name in ("sm_active_ratio", "tensor_active_ratio", "dram_active_ratio"):
        assert values.get(name) is None or 0 < values[name] <= 1
    # NVML averages its busy gauge over up to a second, so the first readings still hold the quiet before.
    assert 0.8 < values["gpu_busy_ratio"] <= 1


def test_device_and_host_clocks_agree_on_ten_milliseconds():
    products, clock, into = Products(1), make_clock("cuda"), Timings()
    for _ in range(3):
        clock(products.step, into)
    products.repeats = max(1, round(0.012 / min(into.device)))
    into = Timings()
    for _ in range(20):
        clock(products.step, into)
    host, device = sorted(into.host)[10], sorted(into.device)[10]
    assert device >= 0.01
    assert device == pytest.approx(host, rel=0.05)


def test_a_step_is_waited_for():
    clock, into = make_clock("cuda"), Timings()
    started = time.perf_counter()
    clock(Products(16).step, into)
    assert into.host[0] <= time.perf_counter() - started
    assert into.host[0] > 0.5 * 16 * 2 * SIZE**3 / 2e15, "launching alone takes microseconds"


@pytest.fixture(scope="module")
def large(new_sweep: Callable[[], Any]) -> dict[str, Any]:
    """One row of a model of 6.4 GB."""
    sweep = new_sweep()
    sweep.environment.pop("CUDA_VISIBLE_DEVICES")
    options = ["model=llama3_2_3b", "workload=prefill", "workload.quality_windows=4", "device=cuda"]
    done = sweep.run(
        *options, "protocol.minimum_seconds=3", "protocol.maximum_seconds=5", "corpus.maximum_bytes=400000"
    )
    assert done.returncode == 0, done.stderr
    assert "loads its libraries anew" not in done.stderr, "what is preloaded must leave forks that can use the GPU"
    (row,) = sweep.rows()
    assert row["status"] == "ok", row["reason"]
    return row


def test_random_weights_are_made_on_the_device(large: dict[str, Any]):
    assert large["weights_bytes"] > 6e9
    assert large["peak_load_host_bytes"] - large["framework_host_bytes"] < large["weights_bytes"] / 4
    # transformers makes the output layer before it ties it to the embeddings, which are an eighth of these weights.
    assert large["peak_load_allocated_bytes"] < 1.15 * large["weights_bytes"]


def test_a_row_of_a_large_model_breaks_no_identity(large: dict[str, Any]):
    assert large["flags"] == []
    assert large["energy_source"] == "counter"
    assert 0 < large["mfu_ratio"] <= 1
    assert large["peak_allocated_bytes"] <= large["peak_reserved_bytes"] <= large["peak_device_bytes"]
    assert large["device_latency_p50_seconds"] == pytest.approx(large["latency_p50_seconds"], rel=0.05)


@pytest.fixture(scope="module")
def rows(new_sweep: Callable[[], Any], small_options: Callable[[Path], None]) -> list[dict[str, Any]]:
    """Every technique on every workload, on the GPU."""
    sweep = new_sweep()
    sweep.environment.pop("CUDA_VISIBLE_DEVICES")
    sweep.environment.pop("OMP_NUM_THREADS")
    small_options(sweep.folder / "own")
    names = [path.stem for path in sorted((Path(__file__).parents[2] / "conf" / "technique").glob("*.yaml"))]
    done = sweep.run(
        "--config-dir=own",
        "device=cuda",
        "model=tiny_trained",
        f"technique={','.join(names)},[int8,lora],[nf4,lora]",
        "workload=small_train_step,small_prefill,small_decode,small_generate",
        "protocol.minimum_seconds=0.05",
        "protocol.maximum_seconds=0.3",
        "corpus.maximum_bytes=400000",
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return sweep.rows()


def test_every_technique_keeps_its_contract_on_the_gpu(rows: list[dict[str, Any]]):
    assert rows
    broken = []
    for row in rows:
        changes = json.loads(row["changed_json"] or "{}")
        good = row["status"] == "skipped" and row["reason"]
        good = good or (
            row["status"] == "ok"
            and row["flags"] == []
            and all(changes[name] for name in changes if name != "none")
            and math.isfinite(row["quality_bits_per_byte"])
            and row["weights_bytes"] <= row["peak_allocated_bytes"] <= row["peak_reserved_bytes"]
        )
        if not good:
            broken.append(
                f"{row['technique']} {row['workload']}: {row['status']} {row['reason']} {row['flags']} {changes}"
            )
    assert broken == []


def test_the_trials_ran_on_the_gpu(rows: list[dict[str, Any]]):
    assert {row["device"] for row in rows} == {"cuda"}
    assert all("NVIDIA" in row["device_name"] and row["gpu_uuid"] for row in rows)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != ""
