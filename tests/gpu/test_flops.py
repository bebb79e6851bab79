"""Executed FLOPs on an NVIDIA GPU: kernels find their operators, and large products are nearly all of the time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.interfaces import Readings, Session, Work
from harness.meters.executed_flops import RATIOS, ExecutedFlops
from harness.meters.utilization import Utilization
from harness.protocol import Protocol
from harness.run.measure import measure
from tests.gpu.loads import SIZE, Products

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]


try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None
else:

    @triton.jit
    def fill_with_one(pointer, count, block: tl.constexpr):
        place = tl.program_id(0) * block + tl.arange(0, block)
        tl.store(pointer + place, 1.0, mask=place < count)


class Runs(Session):
    """A step that is one function."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.run = work

    def step(self) -> None:
        self.run()

    def work(self) -> Work:
        return Work(samples=1, trained_tokens=1, dtype="bfloat16")


def readings(session: Session) -> tuple[Readings, Readings]:
    """What the two meters of products say of a short window."""
    meters = (Utilization(), ExecutedFlops())
    for meter in meters:
        meter.open("cuda")
    protocol = Protocol(minimum_seconds=0.5, maximum_seconds=2)
    found = measure(session, protocol, "cuda", meters, None)
    for meter in meters:
        meter.probe(session)
    return meters[0].readings(found.window), meters[1].readings(found.window)


def seconds_by_name(found: Readings) -> dict[str, float]:
    return {entry["name"]: entry["seconds"] for entry in found.facts["operators"]}


def test_products_alone_execute_what_they_must():
    required, executed = readings(Products())
    assert executed.values["step_executed_flops"] == 8 * 2 * SIZE**3
    assert executed.values["flops_coverage_time_ratio"] > 0.95
    assert executed.values["flops_uncounted_time_ratio"] < 0.05
    if required.values["mfu_ratio"] is None:
        pytest.skip(required.reasons["mfu_ratio"])
    assert executed.values["hfu_ratio"] == pytest.approx(required.values["mfu_ratio"])
    assert 0.4 < executed.values["hfu_ratio"] <= 1


def test_the_time_of_an_operator_is_its_kernels_time():
    products = Products(4)
    for _ in range(3):
        products.step()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    products.step()
    end.record()
    torch.cuda.synchronize()
    _, found = readings(products)
    assert seconds_by_name(found)["aten::mm"] == pytest.approx(begin.elapsed_time(end) / 1e3, rel=0.35)


def test_the_backward_passs_kernels_find_their_operators():
    """They are launched from another thread than the step's."""
    layer = torch.nn.Linear(4096, 4096, bias=False, device="cuda", dtype=torch.bfloat16)
    inputs = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    _, found = readings(Runs(lambda: layer(inputs).sum().backward()))
    assert found.values["step_executed_flops"] == 3 * 2 * 4096**3
    assert found.facts["flops_uncounted_operators"] == {}
    assert seconds_by_name(found)["aten::mm"] > 3 * 2 * 4096**3 / 2e15, "faster than the part can"


@pytest.mark.parametrize("shared", [1, 4])
def test_fused_attention_is_its_closed_form(shared: int):
    query = torch.randn(2, 8, 1024, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    key, value = (torch.randn(2, 8 // shared, 1024, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    key.requires_grad_()
    value.requires_grad_()

    def attend() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        out.sum().backward()

    _, found = readings(Runs(attend))
    product = 2 * 2 * 8 * 1024 * 1024 * 64
    assert found.values["step_executed_flops"] in (6 * product, 7 * product)
    assert found.facts["flops_uncounted_operators"] == {}


def test_a_kernel_outside_every_operator_is_uncounted():
    if triton is None or not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("needs Triton and a C compiler")
    out = torch.empty(2**26, device="cuda")
    _, found = readings(Runs(lambda: fill_with_one[(2**26 // 1024,)](out, out.numel(), 1024)))
    for name in ("step_executed_flops", "hfu_ratio"):
        assert found.values.get(name) is None
        assert found.reasons[name]
    assert any("fill_with_one" in name for name in found.facts["flops_uncounted_operators"])
    assert found.values["flops_uncounted_time_ratio"] > 0.5


def test_every_row_has_a_count_or_names_what_is_missing(
    new_sweep: Callable[[], Any], small_options: Callable[[Path], None]
):
    sweep = new_sweep()
    sweep.environment.pop("CUDA_VISIBLE_DEVICES")
    small_options(sweep.folder / "own")
    done = sweep.run(
        "--config-dir=own",
        "device=cuda",
        "model=tiny_trained",
        "technique=none,gqa,gradient_checkpointing,int8,nf4,moe,adam8bit",
        "workload=small_train_step,small_prefill,small_decode,small_generate",
        "protocol.minimum_seconds=0.05",
        "protocol.maximum_seconds=0.3",
        "corpus.maximum_bytes=400000",
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    rows = [row for row in sweep.rows() if row["status"] == "ok"]
    assert rows
    for row in rows:
        where, reasons, facts = (row["technique"], row["workload"]), row["reasons_json"], json.loads(row["facts_json"])
        assert row["step_executed_flops"] is not None or "step_executed_flops" in reasons, where
        assert "does not run under the counter" not in reasons, (where, reasons)
        assert all(0 <= row[name] <= 1 for name in RATIOS), where
        assert facts["operators"], where
        if row["technique"] == "none":
            assert facts["flops_uncounted_operators"] == {}, where
