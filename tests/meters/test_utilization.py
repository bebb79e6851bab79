"""Shares of the machine: of the datasheet's peak by required work, of the counters where the part has them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from harness.interfaces import Readings, Window, Work
from harness.meters.utilization import Utilization


def readings(device: str, work: Work, step_seconds: list[float] | None = None, samples: int = 3) -> Readings:
    meter = Utilization()
    meter.open(device)
    meter.start()
    for _ in range(samples):
        meter.sample()
    time.sleep(0.05)  # a few ticks of the kernel's accounting
    meter.stop()
    steps = step_seconds or [0.1] * 5
    return meter.readings(Window(work, steps, [], 0, int(sum(steps) * 2e9)))


def test_mfu_is_the_methods_work_over_the_steps_time_and_the_parts_peak(fake_gpu: Any):
    work = Work(samples=1, trained_tokens=1, model_flops=2e13, moved_bytes=1e11, dtype="bfloat16")
    found = readings("cuda", work, [0.1] * 5).values
    # Gaps between steps do not count: 5 steps of 0.1 s in a window of 1 s.
    assert found["model_flops_per_second"] == pytest.approx(2e14)
    assert found["mfu_ratio"] == pytest.approx(2e14 / 989.4e12)
    assert found["mbu_ratio"] == pytest.approx(1e12 / 3.35e12)


def test_the_weights_dtype_decides_the_peak(fake_gpu: Any):
    found = readings("cuda", Work(samples=1, trained_tokens=1, model_flops=1e12, dtype="float32")).values
    assert found["mfu_ratio"] == pytest.approx(1e13 / 66.9e12)


@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_a_dtype_without_a_peak_has_no_mfu(dtype: str, fake_gpu: Any):
    found = readings("cuda", Work(samples=1, trained_tokens=1, model_flops=1e12, dtype=dtype))
    assert found.values["mfu_ratio"] is None
    assert dtype in found.reasons["mfu_ratio"]


def test_an_unknown_part_has_no_roof(fake_gpu: Any):
    fake_gpu.name = "NVIDIA H100 80GB HBM3 Special"
    found = readings("cuda", Work(samples=1, trained_tokens=1, model_flops=1e12, moved_bytes=1e9))
    for name in ("mfu_ratio", "mbu_ratio"):
        assert found.values.get(name) is None
        assert "Special" in found.reasons[name]
    assert found.values["model_flops_per_second"] == pytest.approx(1e13)


def test_work_without_a_closed_form_is_null_with_a_reason(fake_gpu: Any):
    found = readings("cuda", Work(samples=1, trained_tokens=1))
    for name in ("model_flops_per_second", "mfu_ratio", "mbu_ratio"):
        assert found.values.get(name) is None
        assert "no closed form" in found.reasons[name]


@pytest.mark.parametrize(("error", "reason"), [("", "has no GPM counters"), ("No Permission", "No Permission")])
def test_a_gpu_without_gpm_gives_null_and_the_reason(error: str, reason: str, fake_gpu: Any):
    fake_gpu.gpm_error = error
    found = readings("cuda", Work(samples=1, trained_tokens=1))
    for name in ("sm_active_ratio", "tensor_active_ratio", "dram_active_ratio"):
        assert found.values.get(name) is None
        assert reason in found.reasons[name]
    assert found.values["gpu_busy_ratio"] == pytest.approx(0.8)
    assert found.values["sm_clock_hertz"] == pytest.approx(1.98e9)
    assert found.values["gpu_temperature_celsius"] == 55


def test_a_processor_has_no_gpu_columns_and_says_so():
    found = readings("cpu", Work(samples=1, trained_tokens=1, model_flops=1e9))
    for name in ("gpu_busy_ratio", "sm_active_ratio", "sm_clock_hertz", "mfu_ratio", "gpu_temperature_celsius"):
        assert found.values.get(name) is None
        assert found.reasons[name]


def test_processor_time_is_a_share_of_the_usable_cores():
    meter = Utilization()
    meter.open("cpu")
    meter.start()
    until = time.perf_counter() + 0.3
    while time.perf_counter() < until:
        pass
    meter.stop()
    found = meter.readings(Window(Work(samples=1, prompt_tokens=1), [0.3], [], 0, 3 * 10**8)).values
    from harness.environment import usable_cores

    assert 0.3 / usable_cores() < found["cpu_busy_ratio"] <= 1.05
    assert 0 < found["machine_busy_ratio"] <= 1


def test_every_metric_has_a_value_or_a_reason(fake_gpu: Any):
    found = readings("cuda", Work(samples=1, trained_tokens=1, model_flops=1.0, moved_bytes=1.0))
    known = {name for name, value in found.values.items() if value is not None} | set(found.reasons)
    assert {metric.name for metric in Utilization.metrics} <= known
