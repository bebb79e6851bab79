"""Roofs and activity on a device: loads of which it is known what they keep busy, through the loop of every trial."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.commands.calibrate import calibrate, show
from harness.interfaces import Readings, Session, Work
from harness.machine import measured_roofs
from harness.machine.environment import device_name
from harness.machine.measured_roofs import MeasuredRoofs
from harness.meters.roofs import roof_of
from harness.meters.utilization import Utilization
from harness.protocol import Protocol
from harness.rows.store import Results
from harness.run.measure import measure
from harness.run.worker import ROOFS_VARIABLE

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]

SIZE = 8192
#: Much more than any cache of a part in the table holds.
COPIED_BYTES = 2**31


class Load(Session):
    """A step that keeps a known part of the GPU busy, some tens of milliseconds long."""

    def __init__(self, call: Callable[[], Any], work: Work) -> None:
        self.call, self.done = call, work

    def step(self) -> None:
        self.call()

    def work(self) -> Work:
        return self.done


def products() -> Load:
    """Square bfloat16 products of normally distributed numbers."""
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def call() -> None:
        for _ in range(16):
            torch.mm(a, b, out=out)

    return Load(call, Work(samples=1, trained_tokens=1, model_flops=16 * 2.0 * SIZE**3, dtype="bfloat16"))


def copies() -> Load:
    """Copies within the device's memory."""
    source = torch.randn(COPIED_BYTES // 4, device="cuda")
    target = torch.empty_like(source)

    def call() -> None:
        for _ in range(16):
            target.copy_(source)

    return Load(call, Work(samples=1, trained_tokens=1, moved_bytes=16 * 2.0 * COPIED_BYTES))


def spin() -> Load:
    """One thread of one block that waits for a number of clock cycles: torch's own, so nothing has to be compiled."""
    return Load(lambda: torch.cuda._sleep(50_000_000), Work(samples=1, trained_tokens=1))


def watched(load: Load, seconds: float = 1.5, heat_seconds: float = 1.5) -> Readings:
    """Utilization over `seconds` of a load that has been running: NVML's busy gauge looks back up to a second."""
    until = time.perf_counter() + heat_seconds
    while time.perf_counter() < until:
        load.step()
        torch.cuda.synchronize()
    meter = Utilization()
    meter.open("cuda")
    protocol = Protocol(minimum_seconds=seconds, maximum_seconds=4 * seconds)
    return meter.readings(measure(load, protocol, "cuda", [meter], None).window)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where these tests keep the roofs."""
    found = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOFS_VARIABLE, str(found / "roofs"))
        yield found


@pytest.fixture(scope="module")
def activity(folder: Path) -> dict[str, Readings]:
    """Each load's readings; each load's memory is given back before the next."""
    return {make.__name__: watched(make()) for make in (spin, products, copies)}


def counters(activity: dict[str, Readings], name: str) -> dict[str, float]:
    found = {load: readings.values.get(name) for load, readings in activity.items()}
    if None in found.values():
        pytest.skip("; ".join({readings.reasons.get(name, "") for readings in activity.values()}))
    return found  # type: ignore[return-value]


def test_one_spinning_block_is_busy_and_uses_almost_nothing(activity: dict[str, Readings]):
    assert counters(activity, "gpu_busy_ratio")["spin"] >= 0.95
    assert counters(activity, "sm_active_ratio")["spin"] <= 0.05


def test_products_use_the_tensor_pipes_most(activity: dict[str, Readings]):
    found = counters(activity, "tensor_active_ratio")
    assert max(found, key=lambda load: found[load]) == "products"
    assert found["products"] > 2 * max(found["spin"], found["copies"])


def test_copies_use_the_memory_most(activity: dict[str, Readings]):
    found = counters(activity, "dram_active_ratio")
    assert max(found, key=lambda load: found[load]) == "copies"


def test_large_products_reach_a_stable_share_of_the_peak(folder: Path):
    if roof_of(device_name("cuda")) is None:
        pytest.skip(f"no datasheet peak is kept for {device_name('cuda')!r}")
    load = products()
    watched(load, 0.5, heat_seconds=4)  # the clock falls while the part warms up
    found = [watched(load, 1.0, heat_seconds=0.2).values for _ in range(5)]
    ratios = [values["mfu_ratio"] for values in found]
    assert all(0.55 <= ratio <= 1 for ratio in ratios), ratios  # type: ignore[operator]
    assert max(ratios) / min(ratios) <= 1.02, ratios  # type: ignore[type-var, operator]
    assert all(0.55 <= values["mfu_at_clock_ratio"] <= 1 for values in found), found  # type: ignore[operator]


@pytest.fixture(scope="module")
def calibrated(folder: Path) -> MeasuredRoofs:
    """This card's own roofs, in a few seconds."""
    time.sleep(1.5)  # so that NVML's busy gauge forgets the tests before
    roofs, path = calibrate(Results(folder), "cuda", 8.0, str)
    print(show(roofs, path, as_json=False))
    return roofs


def test_the_card_has_a_rate_for_every_dtype_below_the_datasheets(calibrated: MeasuredRoofs):
    assert calibrated.key.startswith("GPU-")
    assert calibrated.power_limit_watts
    assert calibrated.cache_bytes
    assert calibrated.thread_count is None
    needs = {"tf32": (8, 0), "bfloat16": (8, 0), "float8": (8, 9)}
    rates = {**calibrated.flops_per_second, **calibrated.bytes_per_second}
    for name, rate in rates.items():
        if torch.cuda.get_device_capability() < needs.get(name, (0, 0)):
            continue
        assert rate.median_per_second, f"{name}: {rate.reason}"
        assert rate.repeat_count >= 10  # type: ignore[operator]
        assert rate.sm_clock_hertz
        if rate.datasheet_per_second:
            # float32 products may run above the clock that the datasheet's figure assumes.
            assert 0.2 < rate.median_per_second / rate.datasheet_per_second <= 1.05, name


def test_fewer_bits_are_faster(calibrated: MeasuredRoofs):
    flops = {name: rate.median_per_second or 0.0 for name, rate in calibrated.flops_per_second.items()}
    if torch.cuda.get_device_capability() >= (8, 0):
        assert flops["float32"] < flops["tf32"] < flops["bfloat16"]
    if torch.cuda.get_device_capability() >= (8, 9):
        assert flops["bfloat16"] < flops["float8"]


def test_loads_meet_the_roofs_that_were_measured_with_them(calibrated: MeasuredRoofs):
    assert measured_roofs.read("cuda") == (calibrated, ""), calibrated.quiet
    found = watched(products())
    assert 0.75 < found.values["mfu_of_measured_roof_ratio"] <= 1.1  # type: ignore[operator]
    assert found.facts["measured_roof"]["measured_at"] == calibrated.measured_at
    assert 0.75 < watched(copies()).values["mbu_of_measured_roof_ratio"] <= 1.1  # type: ignore[operator]


def test_a_trials_row_is_held_against_the_cards_roofs(
    calibrated: MeasuredRoofs, sweep: Any, quick: Callable[..., list[str]]
):
    sweep.environment.pop("CUDA_VISIBLE_DEVICES")
    measured_roofs.write(sweep.results / "roofs", calibrated)
    done = sweep.run(*(item for item in quick("train_step") if item != "device=cpu"), "device=cuda")
    assert done.returncode == 0, done.stderr
    (row,) = sweep.rows()
    assert row["status"] == "ok", row["reason"]
    peak = calibrated.flops_per_second["float32"].median_per_second
    assert row["mfu_of_measured_roof_ratio"] == pytest.approx(row["model_flops_per_second"] / peak)
    assert json.loads(row["facts_json"])["measured_roof"]["flops_per_second"] == peak
