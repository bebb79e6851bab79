"""Peaks of memory: a step's tensors exactly, and the process as the kernel saw it."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.interfaces import Session, Window, Work
from harness.meters import resident
from harness.meters.memory import Memory, time_average
from harness.meters.memory_anatomy import anatomy_of
from harness.rows.checks import broken_identities
from harness.run.tensors import live_bytes

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


def step_peak(session: Session) -> int:
    found = anatomy_of(session, "cpu")
    assert found is not None
    return found.peak_bytes


def test_what_a_step_lets_go_of_is_not_in_its_peak():
    class Replaces(Session):
        def __init__(self) -> None:
            self.held = torch.zeros(4 * MEBIBYTE)

        def step(self) -> None:
            del self.held
            self.held = torch.zeros(6 * MEBIBYTE)

    before = live_bytes("cpu")
    assert step_peak(Replaces()) - before == pytest.approx(6 * 4 * MEBIBYTE, rel=0.01)


def test_the_profiled_peak_is_what_the_step_held_at_once():
    before = live_bytes("cpu")
    session = Allocates()
    peak = step_peak(session)
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
    peak = step_peak(Trains())
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
    found: Any = meter.readings(WINDOW).values
    step = found["peak_host_bytes"]
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


def trial_with(children: str) -> dict[str, Any]:
    """Values and reasons of the meter in a process of its own, without torch, in whose window `children` runs."""
    source = f"""
import json, subprocess, sys, time
from harness.interfaces import Session, Window, Work
from harness.meters.memory import Memory, time_average
TOUCH = "import mmap, time; m = mmap.mmap(-1, {{}}); [m.__setitem__(i, 1) for i in range(0, len(m), 4096)]; "
TOUCH += "print(flush=True); time.sleep({{}})"
meter = Memory()
meter.open("cpu")
for phase in ("load", "warmup", "step"):
    meter.phase(phase)
meter.start()
{children}
meter.stop()
meter.probe(Session())
found = meter.readings(Window(Work(samples=1, output_tokens=1), [0.1], [], 0, 10**8))
print(json.dumps([dict(found.values), dict(found.reasons), sorted(metric.name for metric in Memory.metrics)]))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    values, reasons, names = json.loads(done.stdout)
    for name in names:
        assert values.get(name) is not None or reasons[name], name
    return values | {"reasons": reasons}


GIBIBYTE = 1024 * MEBIBYTE


def test_a_child_process_that_ended_is_seen():
    found = trial_with(f"subprocess.run([sys.executable, '-c', TOUCH.format({GIBIBYTE}, 0.05)], check=True, stdout=-3)")
    assert found["peak_host_children_bytes"] == pytest.approx(GIBIBYTE, rel=0.02)
    assert found["peak_host_bytes"] < GIBIBYTE / 4, "the process itself held none of it"


def test_a_child_process_that_still_lives_is_seen_and_the_largest_counts():
    start = "child{0} = subprocess.Popen([sys.executable, '-c', TOUCH.format({0} * 2**20, 30)], stdout=-1)"
    until = "child{0}.stdout.readline(); __import__('atexit').register(child{0}.kill)"
    found = trial_with("\n".join(line.format(size) for size in (300, 60) for line in (start, until)))
    assert found["peak_host_children_bytes"] == pytest.approx(300 * MEBIBYTE, rel=0.06)


def test_a_child_below_the_mark_that_it_inherits_says_nothing():
    held = "held = bytearray(200 * 2**20)\n"
    found = trial_with(held + "subprocess.run(['true'], check=True)")
    assert found.get("peak_host_children_bytes") is None
    assert "inherited" in found["reasons"]["peak_host_children_bytes"]


def test_without_a_child_there_is_no_peak_of_children():
    found = trial_with("")
    assert found.get("peak_host_children_bytes") is None
    assert found["reasons"]["peak_host_children_bytes"] == "no child process"


def test_a_model_without_torch_has_no_tensors_and_says_so():
    found = trial_with("")
    for name in ("peak_allocated_bytes", "peak_weights_bytes", "expected_weights_bytes", "peak_unattributed_bytes"):
        assert found.get(name) is None
        assert "no tensor" in found["reasons"][name]
    assert found["peak_host_bytes"] > 0


MOMENTS = st.lists(st.tuples(st.floats(0.01, 10), st.integers(0, 10**12)), min_size=2, max_size=20)


@given(MOMENTS, st.floats(0.1, 10))
def test_the_average_over_time_does_not_depend_on_how_often_it_was_read(moments: list[tuple[float, int]], more: float):
    clock, samples = 0.0, []
    for gap, value in moments:
        clock += gap
        samples.append((clock, value))
    average = time_average(samples)
    assert average is not None
    assert min(value for _, value in samples) * 0.999 <= average <= max(value for _, value in samples) * 1.001
    halves = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in pairwise(samples)]
    denser: Any = sorted([*samples, *halves])
    assert time_average(denser) == pytest.approx(average, rel=1e-6, abs=1)
    constant = [(when, 7) for when, _ in samples]
    assert time_average([*constant, (clock + more, 7)]) == pytest.approx(7)


def test_one_moment_has_no_average():
    assert time_average([]) is None
    assert time_average([(1.0, 5)]) is None


def test_on_a_processor_there_is_no_reserve_and_the_row_says_so():
    meter = Memory()
    meter.open("cpu")
    meter.phase("step")
    meter.stop()
    found = meter.readings(WINDOW)
    for name in ("peak_reserved_bytes", "peak_device_bytes", "mean_allocated_bytes"):
        assert found.values.get(name) is None
        assert "CPU" in found.reasons[name]


class FakeAllocator:
    """As much of torch.cuda as the meter asks: others use 3 GB, a context 0.5 GB, and tests set the counts."""

    def __init__(self) -> None:
        self.ready, self.allocated, self.reserved, self.retries = False, 0, 0, 0

    def init(self) -> None:
        self.ready = True

    def memory_allocated(self) -> int:
        return self.allocated

    max_memory_allocated = memory_allocated

    def memory_reserved(self) -> int:
        return self.reserved

    max_memory_reserved = memory_reserved

    def reset_peak_memory_stats(self) -> None:
        """Peaks are what is held: nothing to reset."""

    def memory_stats(self) -> dict[str, int]:
        return {"requested_bytes.all.peak": self.allocated - 100, "num_alloc_retries": self.retries}

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(used=3_000_000_000 + 500_000_000 * self.ready + self.reserved)


@pytest.fixture
def allocator(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> FakeAllocator:
    """A pretended GPU whose allocator holds what a test says."""
    fake = FakeAllocator()
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "init"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    for name in ("reset_peak_memory_stats", "memory_stats"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(fake_gpu, "nvmlDeviceGetMemoryInfo", fake.nvmlDeviceGetMemoryInfo, raising=False)
    return fake


@given(
    st.permutations(["load", "warmup", "step"]), st.integers(10**6, 10**10), st.integers(0, 10**9), st.integers(0, 3)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_each_phase_has_its_peaks_on_a_gpu(
    allocator: FakeAllocator, sizes: list[str], unit: int, free: int, fails: int
):
    allocator.__init__()
    meter = Memory()
    meter.open("cuda")
    allocator.retries = 5  # before the warm-up: they are the loading's
    for phase in ("load", "warmup", "step"):
        meter.phase(phase)
        allocator.allocated = unit * (1 + sizes.index(phase))
        allocator.reserved = allocator.allocated + free
    meter.start()
    allocator.retries += fails
    meter.stop()
    found = meter.readings(WINDOW).values
    for phase, prefix in (("load", "peak_load"), ("warmup", "peak_warmup"), ("step", "peak")):
        allocated = unit * (1 + sizes.index(phase))
        assert found[f"{prefix}_allocated_bytes"] == allocated
        assert found[f"{prefix}_reserved_bytes"] == allocated + free
        assert found[f"{prefix}_device_bytes"] == 3_500_000_000 + allocated + free
    assert found["fragmentation_bytes"] == free
    assert found["peak_requested_bytes"] == allocator.allocated - 100
    assert found["gpu_context_bytes"] == 500_000_000
    assert found["mean_allocated_bytes"] == pytest.approx(allocator.allocated)
    assert found["allocator_retries_count"] == fails
    assert bool([line for line in broken_identities(found) if "ran out" in line]) == bool(fails)


def test_what_a_session_holds_is_passed_on_by_cause():
    held = {"kv_cache_bytes": 5, "gradient_bytes": 7}
    meter = Memory()
    meter.open("cpu")
    meter.phase("step")
    meter.stop()
    found = meter.readings(Window(WINDOW.work, [0.1], [], 0, 1, held_bytes=held))
    assert {name: found.values[name] for name in held} == held
    assert "holds none" in found.reasons["optimizer_state_bytes"]
