"""Datasheet peaks, to the digit, and none for a part that is not in the table."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.meters.rates import measure_roofs
from harness.meters.roofs import ROOFS, roof_of
from harness.rows.checks import broken_identities

#: NVIDIA's datasheets: dense bfloat16 TFLOP/s (printed with sparsity: twice that), float32 TFLOP/s, TB/s.
DATASHEET = {
    "NVIDIA H100 80GB HBM3": (989.4, 66.9, 3.35),
    "NVIDIA H100 PCIe": (756.0, 51.2, 2.0),
    "NVIDIA H100 NVL": (835.0, 60.0, 3.9),
    "NVIDIA H200": (989.4, 66.9, 4.8),
    "NVIDIA A100-SXM4-40GB": (312.0, 19.5, 1.555),
    "NVIDIA A100-SXM4-80GB": (312.0, 19.5, 2.039),
    "NVIDIA A100 80GB PCIe": (312.0, 19.5, 1.935),
}


def test_the_table_holds_the_datasheets_values():
    found = {
        name: (
            roof.flops_per_second["bfloat16"] / 1e12,
            roof.flops_per_second["float32"] / 1e12,
            roof.bytes_per_second / 1e12,
        )
        for name, roof in ROOFS.items()
    }
    assert found == DATASHEET


@pytest.mark.parametrize("part", sorted(ROOFS))
def test_eight_bits_are_twice_as_fast_as_sixteen(part: str):
    peaks = ROOFS[part].flops_per_second
    assert peaks["float16"] == peaks["bfloat16"]
    assert peaks["int8"] == pytest.approx(2 * peaks["bfloat16"], rel=0.002)
    assert peaks.get("float8", peaks["int8"]) == peaks["int8"]


@pytest.mark.parametrize("part", sorted(ROOFS))
def test_tf32_is_half_as_fast_as_sixteen_bits(part: str):
    peaks = ROOFS[part].flops_per_second
    assert peaks["tf32"] == pytest.approx(peaks["bfloat16"] / 2, rel=0.002)


@pytest.mark.parametrize("part", sorted(ROOFS))
def test_the_datasheets_peak_is_all_multiprocessors_at_a_clock_that_the_part_has(part: str):
    roof = ROOFS[part]
    assert roof.flops_per_clock.keys() == roof.flops_per_second.keys()
    for dtype, peak in roof.flops_per_second.items():
        assert 1.38e9 < peak / (roof.multiprocessor_count * roof.flops_per_clock[dtype]) < 2.0e9, dtype


@pytest.mark.parametrize("part", ["", "NVIDIA H100", "nvidia h100 80gb hbm3", "NVIDIA H100 80GB HBM3 ", "Intel Xeon"])
def test_a_similar_name_is_no_name(part: str):
    assert roof_of(part) is None


@pytest.mark.parametrize("name", ["mfu_of_measured_roof_ratio", "mbu_of_measured_roof_ratio"])
def test_a_measured_roof_may_be_met_but_not_left_far_below(name: str):
    assert broken_identities({name: 1.09}) == []
    for value in (1.11, 0.0, -0.1, float("nan")):
        assert any(name in line for line in broken_identities({name: value})), value
    (line,) = broken_identities({name: 2.0})
    assert "harness calibrate" in line


@pytest.mark.parametrize("name", ["mfu_ratio", "mfu_at_clock_ratio", "mbu_ratio"])
def test_what_a_part_can_do_at_most_is_not_exceeded(name: str):
    assert broken_identities({name: 1.0}) == []
    for value in (1.01, 0.0):
        assert any(name in line for line in broken_identities({name: value})), value


def test_a_gpu_that_torch_cannot_use_is_said(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="this torch cannot use it"):
        measure_roofs("cuda", 1.0, str)
