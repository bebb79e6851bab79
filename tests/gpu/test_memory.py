"""Memory on an NVIDIA GPU: the allocator's counts are exact, and the parts of a peak are the peak."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from harness.interfaces import Session, Window, Work
from harness.meters.memory import Memory
from harness.meters.memory_anatomy import Anatomy, _history, anatomy_of
from harness.rows.checks import MEMORY_PARTS, broken_identities

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]

MEBIBYTE = 2**20
WINDOW = Window(Work(samples=1, trained_tokens=1), [0.1], [0.1], 0, 10**8)


@pytest.fixture(autouse=True)
def an_empty_allocator() -> None:
    """What other tests left in the allocator's cache would be reserved, and its blocks larger than asked for."""
    torch.cuda.init()
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def read(session: Session, steps: int = 3) -> dict[str, Any]:
    """Values of the memory meter over a few steps, with the flags that they would raise."""
    meter = Memory()
    meter.open("cuda")
    for phase in ("load", "warmup", "step"):
        meter.phase(phase)
        if phase != "load":
            session.before_step()
            session.step()
    meter.start()
    for _ in range(steps):
        session.before_step()
        session.step()
        meter.sample()
    torch.cuda.synchronize()
    meter.stop()
    meter.probe(session)
    found = meter.readings(WINDOW)
    for metric in Memory.metrics:
        assert found.values.get(metric.name) is not None or found.reasons[metric.name], metric.name
    return {**found.values, "flags": broken_identities(found.values)}


class Takes(Session):
    """Takes tensors of the given numbers of bytes at once, and lets them go."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def step(self) -> None:
        held = [torch.empty(size, dtype=torch.uint8, device="cuda") for size in self.sizes]
        del held


# Below a MiB each: from there on a block may be larger than its rounded size, when the rest is too small to keep.
@pytest.mark.parametrize("sizes", [(1,), (512, 513), (1000,) * 7, (100_000, 999_999, 3)])
def test_known_tensors_are_counted_exactly(sizes: tuple[int, ...]):
    before, asked = torch.cuda.memory_allocated(), torch.cuda.memory_stats()["requested_bytes.all.current"]
    found = read(Takes(*sizes))
    assert found["peak_allocated_bytes"] - before == sum(-(-size // 512) * 512 for size in sizes)
    assert found["peak_requested_bytes"] - asked == sum(sizes)
    assert found["peak_probed_bytes"] == found["peak_allocated_bytes"]
    assert found["flags"] == []


def test_what_is_asked_for_is_allocated_is_reserved_is_on_the_device():
    found = read(Perceptron())
    for prefix in ("peak_load", "peak_warmup", "peak"):
        names = [f"{prefix}_{kind}_bytes" for kind in ("allocated", "reserved", "device")]
        assert [found[name] for name in names] == sorted(found[name] for name in names)
    assert found["peak_requested_bytes"] <= found["peak_allocated_bytes"]
    assert found["fragmentation_bytes"] == found["peak_reserved_bytes"] - found["peak_allocated_bytes"]
    assert found["mean_allocated_bytes"] <= found["peak_allocated_bytes"]
    assert found["allocator_retries_count"] == 0
    assert found["flags"] == []


class Perceptron(Session):
    """Two linear layers of 4096 x 4096 and Adam in float32."""

    def __init__(self, rows: int = 512, dtype: torch.dtype = torch.float32) -> None:
        layers = [nn.Linear(4096, 4096, bias=False, device="cuda", dtype=dtype) for _ in range(2)]
        self.model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(rows, 4096, device="cuda", dtype=dtype)
        self.parameters = 2 * 4096 * 4096
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model(self.batch).float().pow(2).mean().backward()
        self.optimizer.step()


def apart(session: Session) -> Anatomy:
    found = anatomy_of(session, "cuda")
    assert found is not None
    assert set(found.parts) == set(MEMORY_PARTS)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [64, 16_384])
def test_the_parts_of_a_training_step_are_the_allocators_peak(rows: int, dtype: torch.dtype):
    session = Perceptron(rows, dtype)
    session.step()
    torch.cuda.reset_peak_memory_stats()
    session.step()
    peak = torch.cuda.max_memory_allocated()
    found = apart(session)
    assert found.peak_bytes == pytest.approx(peak, rel=0.02)
    assert sum(found.parts.values()) == found.peak_bytes
    assert 0 <= found.parts["unattributed"] <= 0.02 * found.peak_bytes, found.parts
    assert found.parts["weights"] == session.parameters * dtype.itemsize
    assert found.parts["optimizer_state"] == pytest.approx(2 * session.parameters * dtype.itemsize, rel=1e-3)


def test_activations_and_gradients_are_what_the_shapes_say():
    small, large = apart(Perceptron(64)), apart(Perceptron(16_384))
    gradients = 4 * 2 * 4096 * 4096
    assert small.parts["gradient"] == pytest.approx(gradients, rel=0.02), "the update is the peak: all are alive"
    assert large.parts["activation"] >= 2 * 4 * 16_384 * 4096, "the hidden layer and the result are kept"


def test_what_autograds_thread_frees_between_two_operations_does_not_count():
    rows, layers = 8192, 12
    result = 4 * rows * 1024

    class Deep(Session):
        """Layers that keep nothing for the backward pass but their weights, so that gradients only pass through."""

        def __init__(self) -> None:
            self.model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False, device="cuda") for _ in range(layers)))
            self.model.requires_grad_(False)

        def before_step(self) -> None:
            self.batch = torch.randn(rows, 1024, device="cuda", requires_grad=True)

        def step(self) -> None:
            self.model(self.batch).sum().backward()

    found = apart(Deep())
    assert 0 <= found.parts["unattributed"] <= 0.02 * found.peak_bytes, found.parts
    assert found.parts["activation"] <= 4 * result, "two or three tensors at a time, however many layers"


def test_the_allocators_history_is_complete_and_in_order():
    with _history() as changes:
        first = torch.empty(1000, dtype=torch.uint8, device="cuda")
        addresses = [first.data_ptr()]
        del first
        second = torch.empty(3_000_001, dtype=torch.uint8, device="cuda")
        addresses.append(second.data_ptr())
    assert changes == [(addresses[0], 1000), (addresses[0], None), (addresses[1], 3_000_001)]
    del second
    with _history() as changes:
        """What happened before is forgotten."""
    assert changes == []


def test_a_library_that_keeps_a_workspace_is_not_unattributed():
    found = apart(Perceptron(64))
    assert found.parts["unattributed"] == 0
    assert found.parts["workspace"] > 0


def test_the_context_is_outside_the_allocator():
    found = read(Perceptron())
    assert found["gpu_context_bytes"] is None or 0 <= found["gpu_context_bytes"] < 4 * 2**30
    assert found["peak_device_bytes"] >= found["peak_reserved_bytes"]


def test_a_retry_of_the_allocator_is_counted_and_flagged():
    class Exhausts(Session):
        """Fills the cache with free blocks of one size, then asks for more than is left beside them."""

        def step(self) -> None:
            free, _ = torch.cuda.mem_get_info()
            cached = torch.empty(int(free * 0.6), dtype=torch.uint8, device="cuda")
            del cached
            larger = torch.empty(int(free * 0.7), dtype=torch.uint8, device="cuda")
            del larger
            torch.cuda.empty_cache()

    found = read(Exhausts(), steps=1)
    assert found["allocator_retries_count"] >= 1
    assert any("ran out" in line for line in found["flags"])
