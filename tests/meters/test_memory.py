"""Peaks of memory: a step's tensors exactly, and the process as the kernel saw it."""

from __future__ import annotations

import mmap
import time

import pytest
import torch
from harness.meters.tensor_peak import profiled_peak

from harness.interfaces import Session, Window, Work
from harness.meters import resident
from harness.meters.memory import Memory
from harness.tensors import live_bytes

MEBIBYTE = 2**20
WINDOW = Window(Work(samples=1, prompt_tokens=1), [0.1], [], 0, 10**8)


class Allocates(Session):
    """Holds 8 MiB, and in a step first 32 MiB, then 16 + 24 MiB: the peak of a step is 40 MiB."""

    def __init__(self) -> None:
        self.kept = torch.zeros(2 * MEBIBYTE)

    def before_step(self) -> None:
        self.prepared = torch.zeros(MEBIBYTE)

    def step(self) -> None:
        first = torch.zeros(8 * MEBIBYTE)
        del first
        second = torch.zeros(4 * MEBIBYTE)
        third = torch.zeros(6 * MEBIBYTE)
        del second, third


def test_the_profiled_peak_is_what_the_step_held_at_once():
    before = live_bytes("cpu")
    session = Allocates()
    peak = profiled_peak(session)
    assert peak is not None
    assert peak - before == pytest.approx((8 + 4 + 40) * MEBIBYTE, rel=0.01)


def test_activations_that_only_the_backward_pass_keeps_are_in_the_peak():
    class Trains(Session):
        def __init__(self) -> None:
            self.weight = torch.ones(MEBIBYTE, requires_grad=True)

        def step(self) -> None:
            found = self.weight
            for _ in range(6):
                found = torch.sin(found)  # keeps its input: 4 MiB each
            found.sum().backward()
            self.weight.grad = None

    before = live_bytes("cpu")
    peak = profiled_peak(Trains())
    assert peak is not None
    # weight, six results kept for the backward pass, and two gradients on their way
    assert (1 + 6) * 4 * MEBIBYTE < peak - before <= (1 + 6 + 3) * 4 * MEBIBYTE


def touch(mebibytes: int, seconds: float) -> None:
    """Hold so much memory, every page of it written, for so long; then give it back to the kernel."""
    with mmap.mmap(-1, mebibytes * MEBIBYTE) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        time.sleep(seconds)


needs_resets = pytest.mark.skipif(not resident.reset_peak(), reason="clear_refs is not writable here")


@needs_resets
def test_a_host_peak_of_50_milliseconds_is_seen():
    meter = Memory()
    meter.open("cpu")
    meter.phase("load")
    meter.phase("step")
    before = resident.resident_bytes()
    assert before is not None
    touch(300, 0.05)
    meter.stop()
    peak = meter.readings(WINDOW).values["peak_host_bytes"]
    assert peak is not None
    assert peak - before == pytest.approx(300 * MEBIBYTE, rel=0.02)


@needs_resets
def test_a_peak_belongs_to_its_phase():
    meter = Memory()
    meter.open("cpu")
    meter.phase("load")
    touch(200, 0)
    meter.phase("warmup")
    touch(100, 0)
    meter.phase("step")
    meter.stop()
    touch(300, 0)
    found = meter.readings(WINDOW).values
    step = found["peak_host_bytes"]
    assert step is not None
    assert found["peak_load_host_bytes"] - step == pytest.approx(200 * MEBIBYTE, rel=0.05)
    assert found["peak_warmup_host_bytes"] - step == pytest.approx(100 * MEBIBYTE, rel=0.05)


def test_without_a_resettable_mark_the_peak_is_null_and_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resident, "reset_peak", lambda: resident.PEAK_RESETS.update(works=False) or False)
    before = dict(resident.PEAK_RESETS)
    meter = Memory()
    meter.open("cpu")
    for phase in ("load", "warmup", "step"):
        meter.phase(phase)
    meter.stop()
    found = meter.readings(WINDOW)
    resident.PEAK_RESETS.update(before)
    for name in ("peak_host_bytes", "peak_load_host_bytes", "peak_warmup_host_bytes"):
        assert found.values[name] is None
        assert "high-water mark" in found.reasons[name]


def test_on_a_processor_there_is_no_reserve_and_the_row_says_so():
    meter = Memory()
    meter.open("cpu")
    meter.phase("step")
    meter.stop()
    found = meter.readings(WINDOW)
    for name in ("peak_reserved_bytes", "peak_device_bytes", "mean_allocated_bytes"):
        assert found.values.get(name) is None
        assert "CPU" in found.reasons[name]


def test_what_a_session_holds_is_passed_on_by_cause():
    held = {"kv_cache_bytes": 5, "gradient_bytes": 7}
    meter = Memory()
    meter.open("cpu")
    meter.phase("step")
    meter.stop()
    found = meter.readings(Window(WINDOW.work, [0.1], [], 0, 1, held_bytes=held))
    assert {name: found.values[name] for name in held} == held
    assert "holds none" in found.reasons["optimizer_state_bytes"]
