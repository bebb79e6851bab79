"""Datasheet peaks, to the digit, and none for a part that is not in the table."""

from __future__ import annotations

import pytest

from harness.meters.roofs import ROOFS, roof_of

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


@pytest.mark.parametrize("part", ["", "NVIDIA H100", "nvidia h100 80gb hbm3", "NVIDIA H100 80GB HBM3 ", "Intel Xeon"])
def test_a_similar_name_is_no_name(part: str):
    assert roof_of(part) is None
