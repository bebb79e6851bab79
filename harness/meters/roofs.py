"""Datasheet peaks, dense and without sparsity, by the part's exact name; an unknown part has none.

Sources: NVIDIA's A100, H100 and H200 datasheets. Their tensor-core figures are printed with sparsity; these are half of
them. Bandwidths are of the memory that the named part carries. What a multiprocessor does per clock is from NVIDIA's
A100 and H100 architecture whitepapers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Roof:
    """Peak rates of one part; a multiply-add is two FLOPs."""

    flops_per_second: dict[str, float]
    bytes_per_second: float
    multiprocessor_count: int
    #: FLOPs of one multiprocessor per clock: the peak at another clock than the datasheet's follows from it.
    flops_per_clock: dict[str, int]


_H100_SXM = {
    "bfloat16": 989.4e12,
    "float16": 989.4e12,
    "tf32": 494.7e12,
    "float32": 66.9e12,
    "float8": 1978.9e12,
    "int8": 1978.9e12,
}
_H100_PCIE = {
    "bfloat16": 756e12,
    "float16": 756e12,
    "tf32": 378e12,
    "float32": 51.2e12,
    "float8": 1513e12,
    "int8": 1513e12,
}
_H100_NVL = {
    "bfloat16": 835e12,
    "float16": 835e12,
    "tf32": 417.5e12,
    "float32": 60e12,
    "float8": 1671e12,
    "int8": 1671e12,
}
_A100 = {"bfloat16": 312e12, "float16": 312e12, "tf32": 156e12, "float32": 19.5e12, "int8": 624e12}
_HOPPER = {"bfloat16": 4096, "float16": 4096, "tf32": 2048, "float32": 256, "float8": 8192, "int8": 8192}
_GA100 = {"bfloat16": 2048, "float16": 2048, "tf32": 1024, "float32": 128, "int8": 4096}

ROOFS: dict[str, Roof] = {
    "NVIDIA H100 80GB HBM3": Roof(_H100_SXM, 3.35e12, 132, _HOPPER),
    "NVIDIA H100 PCIe": Roof(_H100_PCIE, 2.0e12, 114, _HOPPER),
    "NVIDIA H100 NVL": Roof(_H100_NVL, 3.9e12, 132, _HOPPER),
    "NVIDIA H200": Roof(_H100_SXM, 4.8e12, 132, _HOPPER),
    "NVIDIA A100-SXM4-40GB": Roof(_A100, 1.555e12, 108, _GA100),
    "NVIDIA A100-SXM4-80GB": Roof(_A100, 2.039e12, 108, _GA100),
    "NVIDIA A100 80GB PCIe": Roof(_A100, 1.935e12, 108, _GA100),
}


def roof_of(part: str) -> Roof | None:
    """The part's roof, or None; never a guess from a similar name."""
    return ROOFS.get(part)
