"""Clocks, clock events, foreign processes and cold caches on an NVIDIA GPU."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from harness.interfaces import Readings, Session, Work
from harness.meters.conditions import Conditions
from harness.protocol import Protocol
from harness.run.flush import last_level_cache_bytes
from harness.run.measure import Timings, make_clock, measure, timed_step
from tests.gpu.loads import Products

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]

#: Uses the GPU at the first line that it is given, and ends at the second.
STRANGER = """
import sys, torch
print("ready", flush=True)
input()
held = torch.zeros(64 * 2**20, device="cuda")
torch.cuda.synchronize()
print("there", flush=True)
input()
"""


class Spin(Session):
    """One thread that counts `cycles` of its multiprocessor's clock."""

    def __init__(self, cycles: int) -> None:
        self.cycles = cycles

    def step(self) -> None:
        torch.cuda._sleep(self.cycles)

    def work(self) -> Work:
        return Work(samples=1, trained_tokens=1)


class Sum(Session):
    """Reads an array of half the L2 cache."""

    def __init__(self) -> None:
        self.array = torch.ones(last_level_cache_bytes("cuda") // 8, device="cuda")

    def step(self) -> None:
        self.array.sum()

    def work(self) -> Work:
        return Work(samples=1, trained_tokens=1)


def under_conditions(session: Session, **protocol: Any) -> tuple[Conditions, Readings, Any]:
    meter = Conditions()
    meter.open("cuda")
    found = measure(session, Protocol(**protocol), "cuda", [meter], None)
    return meter, meter.readings(found.window), found


@pytest.fixture(scope="module")
def steady() -> tuple[Conditions, Readings, Any]:
    """Three seconds of products after two of warm-up."""
    warm, products = time.perf_counter() + 2.0, Products()
    while time.perf_counter() < warm:
        products.step()
        torch.cuda.synchronize()
    return under_conditions(products, minimum_seconds=3.0, maximum_seconds=3.5)


def test_every_column_of_a_gpu_has_a_value(steady: Any):
    _, readings, _ = steady
    null = {name: readings.reasons[name] for name, value in readings.values.items() if value is None}
    # A virtual machine has no cpufreq, and not every part tells its memory's temperature.
    optional = ("cpu_clock_begin_hertz", "cpu_clock_end_hertz", "gpu_memory_temperature_celsius")
    assert {name: reason for name, reason in null.items() if name not in optional} == {}


def test_the_clock_within_a_step_is_nvmls_clock(steady: Any):
    meter, readings, found = steady
    # Under the power cap the clock moves by some percent from poll to poll, and the two look at different moments.
    polled = [item.sm_clock_hertz for item in meter.polls[1:-1]]
    assert min(polled) * 0.98 <= readings.values["in_sample_sm_clock_hertz"] <= max(polled) * 1.02
    assert readings.values["in_sample_sm_clock_hertz"] == pytest.approx(statistics.median(polled), rel=0.05)
    samples = readings.samples["in_sample_sm_clock_hertz_samples"]
    assert len(samples) == found.window.steps
    assert None not in samples


def test_the_power_caps_counter_agrees_with_the_polls(steady: Any):
    """A unit that were wrong by a factor of a thousand would show."""
    _, readings, _ = steady
    polled = readings.facts["clock_event_poll_ratios"].get("software power cap", 0.0)
    if 0.2 < polled < 0.8:
        pytest.skip(f"the polls saw a power cap for {polled:.0%} of the window: neither capped nor free")
    assert (readings.values["power_capped_ratio"] > 0.5) == (polled > 0.5)


def test_a_steady_load_is_valid_and_a_poll_is_short(steady: Any):
    _, readings, found = steady
    assert list(readings.flags) == []
    assert readings.facts["conditions_poll_count"] >= 0.8 * found.window.seconds / Conditions.period_seconds
    assert readings.facts["conditions_poll_seconds"] < 0.01


def test_a_clock_that_is_known_by_counting_is_found():
    """A spin of known cycles over its time by events is the clock, without NVML."""
    _, readings, found = under_conditions(Spin(20_000_000), minimum_seconds=1.0, maximum_seconds=2.0)
    counted = 20_000_000 / statistics.median(found.window.device_step_seconds)
    assert readings.values["in_sample_sm_clock_hertz"] == pytest.approx(counted, rel=0.005)


def spin_hertz() -> float:
    """The clock under a light load, from a long spin."""
    _, readings, _ = under_conditions(Spin(100_000_000), minimum_seconds=0.3, maximum_seconds=1.5, minimum_samples=5)
    clock = readings.values["in_sample_sm_clock_hertz"]
    assert clock is not None, readings.reasons
    return clock


def spin_seconds(cycles: int, stamped: bool, queued: bool = True) -> tuple[float, float]:
    """Median time of a spin by events and by the host."""
    meter, into = Conditions(), Timings()
    meter.open("cuda")
    one_step = timed_step(Spin(cycles), make_clock("cuda", queued=queued), None, [meter] if stamped else ())
    for _ in range(10):
        one_step(Timings())
    for _ in range(100):
        one_step(into)
    return statistics.median(into.device), statistics.median(into.host)


@pytest.mark.parametrize("stamped", [False, True], ids=["bare", "stamped"])
@pytest.mark.parametrize("seconds", [1e-4, 1e-3, 1e-2])
def test_a_spin_of_known_length_is_timed_rightly(seconds: float, stamped: bool):
    """Beyond what a spin of no cycles takes between the same events."""
    clock = spin_hertz()
    device, _ = spin_seconds(round(seconds * clock), stamped)
    empty, _ = spin_seconds(0, stamped)
    assert abs(device - empty - seconds) <= max(1e-6, 0.005 * seconds)
    if seconds >= 1e-2:
        _, host = spin_seconds(round(seconds * clock), stamped, queued=False)
        assert host == pytest.approx(seconds, rel=0.02)


def test_what_is_queued_begins_without_waiting_for_its_launch():
    queued, _ = spin_seconds(0, stamped=False)
    as_it_comes, _ = spin_seconds(0, stamped=False, queued=False)
    assert queued < as_it_comes


@pytest.fixture
def strangers() -> Iterator[list[subprocess.Popen[str]]]:
    """Three processes that have loaded torch and wait for a line before they use the GPU."""
    command = [sys.executable, "-c", STRANGER]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    found = [subprocess.Popen(command, start_new_session=True, **pipes) for _ in range(3)]
    for process in found:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield found
    for process in found:
        process.kill()
        process.wait()


def test_a_second_process_on_the_gpu_makes_the_window_invalid(strangers: list[subprocess.Popen[str]]):
    session = Spin(2_000_000)
    _, alone, _ = under_conditions(session, minimum_seconds=0.5, maximum_seconds=0.6)
    if alone.values["foreign_process_count"] is None:
        pytest.skip(alone.reasons["foreign_process_count"])
    assert list(alone.flags) == []
    for delay, process in zip((0.3, 0.7, 1.13), strangers, strict=True):
        assert process.stdin is not None
        intrusion = threading.Timer(delay, lambda pipe=process.stdin: (pipe.write("now\n"), pipe.flush()))
        intrusion.start()
        # A context takes up to some seconds to come into being.
        _, shared, _ = under_conditions(session, minimum_seconds=8.0, maximum_seconds=8.5)
        intrusion.join()
        assert shared.flags == [f"invalid: foreign process on the GPU (pid {process.pid})"]
        assert shared.values["foreign_process_count"] == 1
        assert shared.values["foreign_memory_bytes"] >= 256 * 2**20
        process.communicate("end\n", timeout=60)


def test_a_process_that_was_there_before_the_window_makes_it_invalid(strangers: list[subprocess.Popen[str]]):
    process = strangers[0]
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("now\n")
    process.stdin.flush()
    assert process.stdout.readline() == "there\n"
    _, shared, _ = under_conditions(Spin(2_000_000), minimum_seconds=0.2, maximum_seconds=0.3)
    if shared.values["foreign_process_count"] is None:
        pytest.skip(shared.reasons["foreign_process_count"])
    assert any("invalid: foreign process" in flag for flag in shared.flags)


def test_cold_caches_cost_a_step_time_and_hot_ones_do_not():
    options: dict[str, Any] = {"minimum_seconds": 0.5, "maximum_seconds": 1.0, "minimum_samples": 200}
    _, _, hot = under_conditions(Sum(), **options)
    _, _, cold = under_conditions(Sum(), cache="cold", **options)
    assert hot.window.flushed_bytes == 0
    assert cold.window.flushed_bytes == 2 * last_level_cache_bytes("cuda")
    medians = [statistics.median(found.window.device_step_seconds) for found in (hot, cold)]
    assert medians[0] < medians[1]
    # Reading and writing the buffer takes tens of microseconds: it lies outside the step.
    assert medians[1] - medians[0] < cold.window.flushed_bytes * 2 / 3.35e12
