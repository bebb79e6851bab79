"""Shares of the machine: of the datasheet's peak by required work, of the counters where the part has them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401 - a processor's roofs are those of torch's threads

from harness.interfaces import Readings, Window, Work
from harness.machine import measured_roofs
from harness.machine.measured_roofs import MeasuredRoofs, Rate
from harness.meters.utilization import Utilization
from harness.run.worker import ROOFS_VARIABLE

MEASURED = ("mfu_of_measured_roof_ratio", "mbu_of_measured_roof_ratio")


def calibrated(folder: Path, device: str, **others: Any) -> None:
    """This very device's file, with round numbers."""
    found = MeasuredRoofs(
        key=str(measured_roofs.device_key(device)),
        device_name="a part",
        measured_at="2026-01-02T03:04:05+00:00",
        torch_version="2.13.0",
        thread_count=None,
        power_limit_watts=None,
        cache_bytes=50_000_000,
        quiet="quiet",
        flops_per_second={"bfloat16": Rate(7e14, 6.9e14, 7.1e14, 8192, 10), "float16": Rate(reason="not built in")},
        bytes_per_second={"copy": Rate(2e12, 1.9e12, 2.1e12, 2**30, 10), "read": Rate(3e12, 2.9e12, 3.1e12, 2**30, 10)},
    )
    measured_roofs.write(folder, replace(found, **others))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No roofs of the machine that runs the tests."""
    monkeypatch.setenv(ROOFS_VARIABLE, str(tmp_path / "roofs"))
    return tmp_path / "roofs"


BUSY = Work(samples=1, trained_tokens=1, model_flops=2e13, moved_bytes=1e11, dtype="bfloat16")


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


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_same_work_is_held_against_this_very_devices_roofs(device: str, folder: Path, fake_gpu: Any):
    calibrated(folder, device)
    found = readings(device, BUSY, [0.1] * 5)
    assert found.values["mfu_of_measured_roof_ratio"] == pytest.approx(2e14 / 7e14)
    assert found.values["mbu_of_measured_roof_ratio"] == pytest.approx(1e12 / 3e12)
    assert found.facts["measured_roof"]["flops_per_second"] == 7e14
    assert found.facts["measured_roof"]["bytes_per_second"] == 3e12
    assert found.facts["measured_roof"]["measured_at"].startswith("2026-01-02")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"key": 1}'])
def test_without_a_usable_file_the_reason_says_what_to_run(
    device: str, content: bytes | None, folder: Path, fake_gpu: Any
):
    if content is not None:
        folder.mkdir()
        (folder / f"{measured_roofs.device_key(device)}.json").write_bytes(content)
    found = readings(device, BUSY)
    for name in MEASURED:
        assert found.values[name] is None
        assert "harness calibrate" in found.reasons[name]
    assert "measured_roof" not in found.facts


def test_another_cards_roofs_are_not_taken(folder: Path, fake_gpu: Any):
    calibrated(folder, "cuda")
    fake_gpu.nvmlDeviceGetUUID = lambda handle: "GPU-another"
    assert readings("cuda", BUSY).values["mfu_of_measured_roof_ratio"] is None


@pytest.mark.parametrize(("dtype", "reason"), [("float32", "harness calibrate"), ("float16", "not built in")])
def test_a_dtype_without_a_measured_rate_is_null_with_its_reason(dtype: str, reason: str, folder: Path, fake_gpu: Any):
    calibrated(folder, "cuda")
    found = readings("cuda", replace(BUSY, dtype=dtype))
    assert found.values["mfu_of_measured_roof_ratio"] is None
    assert reason in found.reasons["mfu_of_measured_roof_ratio"]
    assert found.values["mbu_of_measured_roof_ratio"] is not None


def test_bytes_that_a_cache_holds_are_not_held_against_memory(folder: Path, fake_gpu: Any):
    calibrated(folder, "cuda")
    found = readings("cuda", replace(BUSY, moved_bytes=50e6))
    assert found.values["mbu_of_measured_roof_ratio"] is None
    assert "cache" in found.reasons["mbu_of_measured_roof_ratio"]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 132 * 2048 * 2),
        ("NVIDIA H200", 132 * 2048 * 2),
        ("NVIDIA H100 NVL", 132 * 2048 * 2),
        ("NVIDIA H100 PCIe", 114 * 2048 * 2),
        ("NVIDIA A100-SXM4-80GB", 108 * 1024 * 2),
    ],
)
def test_at_the_clock_the_peak_is_that_of_all_multiprocessors(name: str, peak: int, fake_gpu: Any):
    fake_gpu.name = name
    clocks = iter([1980, 1500, 1200])
    fake_gpu.nvmlDeviceGetClockInfo = lambda handle, clock: next(clocks)
    found = readings("cuda", BUSY)
    assert found.values["mfu_at_clock_ratio"] == pytest.approx(2e14 / (peak * 1560e6))


def test_at_the_clock_needs_a_clock_a_known_part_and_its_dtype(fake_gpu: Any):
    assert "clock" in readings("cuda", BUSY, samples=0).reasons["mfu_at_clock_ratio"]
    assert "float64" in readings("cuda", replace(BUSY, dtype="float64")).reasons["mfu_at_clock_ratio"]
    fake_gpu.name = "NVIDIA B200"
    assert "B200" in readings("cuda", BUSY).reasons["mfu_at_clock_ratio"]


def test_an_unknown_part_has_no_roof(fake_gpu: Any):
    fake_gpu.name = "NVIDIA H100 80GB HBM3 Special"
    found = readings("cuda", Work(samples=1, trained_tokens=1, model_flops=1e12, moved_bytes=1e9))
    for name in ("mfu_ratio", "mbu_ratio"):
        assert found.values.get(name) is None
        assert "Special" in found.reasons[name]
    assert found.values["model_flops_per_second"] == pytest.approx(1e13)


def test_work_without_a_closed_form_is_null_with_a_reason(fake_gpu: Any):
    found = readings("cuda", Work(samples=1, trained_tokens=1))
    for name in ("model_flops_per_second", "mfu_ratio", "mfu_at_clock_ratio", "mbu_ratio", *MEASURED):
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
    from harness.machine.environment import usable_cores

    meter = Utilization()
    meter.open("cpu")
    wall, own = time.perf_counter(), time.process_time()
    meter.start()
    while time.process_time() < own + 0.3:
        pass
    meter.stop()
    share = (time.process_time() - own) / (time.perf_counter() - wall) / usable_cores()
    found = meter.readings(Window(Work(samples=1, prompt_tokens=1), [0.3], [], 0, 3 * 10**8)).values
    assert found["cpu_busy_ratio"] == pytest.approx(share, rel=0.2)
    assert 0 < found["machine_busy_ratio"] <= 1


def test_every_metric_has_a_value_or_a_reason(fake_gpu: Any):
    found = readings("cuda", Work(samples=1, trained_tokens=1, model_flops=1.0, moved_bytes=1.0))
    known = {name for name, value in found.values.items() if value is not None} | set(found.reasons)
    assert {metric.name for metric in Utilization.metrics} <= known
