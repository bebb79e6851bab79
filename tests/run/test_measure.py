"""The timed loop: when a warm-up ends, when a window is enough, and what is timed."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.interfaces import Meter, Session, Work
from harness.protocol import Protocol
from harness.run import flush
from harness.run.flush import UNKNOWN_CACHE_BYTES, Flush, last_level_cache_bytes
from harness.run.measure import Timings, has_settled, is_enough, make_clock, measure, sampling, unmet

TIMES = st.floats(1e-6, 10)
PROTOCOLS = st.builds(
    Protocol,
    minimum_warmup_steps=st.integers(1, 8),
    settle_window=st.integers(1, 5),
    settle_ratio=st.floats(0.01, 0.5),
    minimum_samples=st.integers(2, 30),
    target_spread_ratio=st.floats(0.001, 0.5),
)


class Recorded(Session):
    """Counts what is asked of it; its steps take the given times, by sleeping."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.calls = seconds, []

    def step(self) -> None:
        self.calls.append("step")
        time.sleep(self.seconds)

    def before_step(self) -> None:
        self.calls.append("before")
        time.sleep(0.002)

    def forget(self) -> None:
        self.calls.append("forget")

    def work(self) -> Work:
        return Work(samples=1, output_tokens=1)


class Watcher(Meter):
    metrics = ()

    def __init__(self) -> None:
        self.calls: list[str] = []

    def phase(self, name: str) -> None:
        self.calls.append(name)

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


@given(TIMES, st.integers(1, 40), PROTOCOLS)
def test_a_constant_time_settles_as_soon_as_there_are_enough_steps(seconds: float, count: int, protocol: Protocol):
    needed = max(protocol.minimum_warmup_steps, 2 * protocol.settle_window)
    assert has_settled([seconds] * count, protocol) == (count >= needed)


@given(st.lists(TIMES, max_size=30), PROTOCOLS, st.sampled_from([0.25, 2.0, 1024.0]))
def test_settling_does_not_depend_on_the_unit_of_time(seconds: list[float], protocol: Protocol, factor: float):
    assert has_settled(seconds, protocol) == has_settled([item * factor for item in seconds], protocol)


@given(st.integers(1, 40), PROTOCOLS)
def test_steps_that_keep_falling_never_settle(count: int, protocol: Protocol):
    assert not has_settled([4.0**-index for index in range(count)], protocol)


@given(st.lists(TIMES, min_size=1, max_size=20), st.lists(TIMES, min_size=20, max_size=30), PROTOCOLS)
def test_only_the_newest_steps_decide(old: list[float], new: list[float], protocol: Protocol):
    assert has_settled([*old, *new], protocol) == has_settled(new, protocol)


@given(st.floats(1e-5, 1), st.integers(0, 3), PROTOCOLS)
def test_one_slow_step_among_many_does_not_unsettle(seconds: float, place: int, protocol: Protocol):
    if protocol.settle_window < 3:
        return
    times = [seconds] * 40
    times[-1 - place] = 100 * seconds
    assert has_settled(times, protocol)


@given(TIMES, st.integers(2, 60), PROTOCOLS)
def test_constant_times_are_enough_from_the_minimum_on(seconds: float, count: int, protocol: Protocol):
    assert is_enough([seconds] * count, protocol) == (count >= protocol.minimum_samples)


@given(st.lists(TIMES, min_size=2, max_size=40), PROTOCOLS)
def test_enough_means_a_small_standard_error_of_the_mean(seconds: list[float], protocol: Protocol):
    error = statistics.stdev(seconds) / len(seconds) ** 0.5 / statistics.fmean(seconds)
    if abs(error - protocol.target_spread_ratio) > 1e-9:
        expected = len(seconds) >= protocol.minimum_samples and error < protocol.target_spread_ratio
        assert is_enough(seconds, protocol) == expected


@given(st.lists(TIMES, min_size=2, max_size=40), PROTOCOLS)
def test_what_was_missed_is_named(seconds: list[float], protocol: Protocol):
    text = unmet(seconds, protocol)
    assert ("samples" in text) == (len(seconds) < protocol.minimum_samples)
    assert "time limit" in text


def quick(**options: Any) -> Protocol:
    return Protocol(**{"minimum_seconds": 0.02, "maximum_seconds": 0.3, "maximum_warmup_seconds": 0.1, **options})


@given(st.integers(4, 60))
def test_a_fixed_number_of_steps_is_kept_exactly_warm_up_included(steps: int):
    session = Recorded()
    session.before_step = lambda: session.calls.append("before")  # type: ignore[method-assign]
    found = measure(session, Protocol(), "cpu", [], steps)
    assert session.calls.count("step") == steps == len(found.warmup_seconds) + found.window.steps
    assert len(found.warmup_seconds) <= max(1, steps // 4)
    assert found.converged


def test_what_lies_between_steps_is_not_timed_in_them():
    found = measure(Recorded(), quick(), "cpu", [], None)
    assert statistics.median(found.window.step_seconds) < 0.001
    assert found.window.seconds > 0.0019 * found.window.steps, "but it is part of the window"


def test_meters_see_the_warm_up_before_and_the_window_around_the_steps():
    session, meter = Recorded(0.001), Watcher()
    found = measure(session, quick(), "cpu", [meter], None)
    assert meter.calls == ["warmup", "step", "start", "stop"]
    warmup = session.calls.index("forget")
    assert session.calls[:warmup].count("step") == len(found.warmup_seconds)
    assert session.calls[warmup:].count("step") == found.window.steps
    assert session.calls.count("before") == session.calls.count("step")


def test_a_step_is_timed_by_the_hosts_clock():
    found = measure(Recorded(0.01), quick(), "cpu", [], None)
    assert min(found.window.step_seconds) >= 0.01
    assert statistics.median(found.window.step_seconds) < 0.02
    assert found.window.device_step_seconds == []


def test_a_time_limit_is_reported_as_not_converged():
    found = measure(Recorded(0.05), quick(maximum_seconds=0.12, minimum_samples=50), "cpu", [], None)
    assert not found.converged
    assert found.stop_reason.startswith("time limit with")
    assert found.window.steps < 6


def test_the_clock_adds_less_than_a_hundredth_of_a_millisecond():
    clock, into = make_clock("cpu"), Timings()
    for _ in range(2000):
        clock(lambda: None, into)
    assert statistics.median(into.host) < 1e-5


class Sampled(Meter):
    metrics = ()
    period_seconds = 0.01

    def __init__(self) -> None:
        self.times: list[float] = []

    def sample(self) -> None:
        self.times.append(time.perf_counter())


def test_a_meter_is_sampled_at_its_period_and_only_inside_the_block():
    meter, slow = Sampled(), Sampled()
    slow.period_seconds = 0.1  # type: ignore[misc]
    with sampling([meter, slow, Watcher()]):
        time.sleep(0.4)
    count = len(meter.times)
    time.sleep(0.05)
    assert len(meter.times) == count
    assert 12 <= count <= 42
    assert 2 <= len(slow.times) <= 5
    assert not any(thread.name == "meters" for thread in threading.enumerate())


def test_how_often_a_meter_was_sampled_is_said():
    meter = Sampled()
    found = measure(Recorded(0.01), quick(minimum_seconds=0.2), "cpu", [meter, Watcher()], None)
    spans = [after - before for before, after in zip(meter.times, meter.times[1:], strict=False)]
    assert found.sampled_every_seconds == {"sampled": pytest.approx(statistics.fmean(spans), rel=0.1)}


def test_a_late_sampler_does_not_catch_up_in_bursts():
    meter = Sampled()
    real = meter.sample
    meter.sample = lambda: (real(), time.sleep(0.05 if len(meter.times) == 3 else 0))  # type: ignore[method-assign]
    with sampling([meter]):
        time.sleep(0.3)
    gaps = [after - before for before, after in zip(meter.times, meter.times[1:], strict=False)]
    assert min(gaps) > 0.002


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sampler_that_fails_is_not_lost_in_silence():
    class Broken(Sampled):
        def sample(self) -> None:
            raise RuntimeError("the counter went away")

    with pytest.raises(RuntimeError, match="went away"), sampling([Broken()]):
        time.sleep(0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum_samples": 1},
        {"maximum_seconds": 0.1, "minimum_seconds": 0.5},
        {"settle_window": 0},
        {"minimum_warmup_steps": 0},
        {"settle_ratio": 0.0},
        {"target_spread_ratio": 1.0},
        {"cache": "lukewarm"},
    ],
)
def test_a_protocol_that_cannot_end_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Protocol(**wrong)


class Beside(Meter):
    metrics = ()

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def before_step(self) -> None:
        time.sleep(0.002)
        self.calls.append("stamp")

    def after_step(self) -> None:
        time.sleep(0.002)
        self.calls.append("stamp")


def test_meters_stand_right_beside_each_step_and_outside_its_time():
    session = Recorded()
    found = measure(session, quick(), "cpu", [Beside(session.calls)], None)
    steps = len(found.warmup_seconds) + found.window.steps
    assert [call for call in session.calls if call != "forget"] == ["before", "stamp", "step", "stamp"] * steps
    assert statistics.median(found.window.step_seconds) < 0.001


def test_meters_stand_aside_where_the_protocol_has_no_clock():
    session = Recorded()
    measure(session, quick(sm_clock=False), "cpu", [Beside(session.calls)], None)
    assert "stamp" not in session.calls


def test_cold_caches_are_written_over_before_each_step_and_outside_its_time(monkeypatch: pytest.MonkeyPatch):
    class Slow(Flush):
        def __call__(self) -> None:
            time.sleep(0.002)
            session.calls.append("flush")

    session = Recorded()
    monkeypatch.setattr("harness.run.measure.Flush", Slow)
    found = measure(session, quick(cache="cold"), "cpu", [Beside(session.calls)], None)
    steps = len(found.warmup_seconds) + found.window.steps
    assert [call for call in session.calls if call != "forget"] == ["before", "flush", "stamp", "step", "stamp"] * steps
    assert statistics.median(found.window.step_seconds) < 0.001
    assert found.window.flushed_bytes == 2 * last_level_cache_bytes("cpu")


def test_hot_caches_are_left_alone():
    assert measure(Recorded(), quick(), "cpu", [], None).window.flushed_bytes == 0


def test_a_flush_writes_every_byte_of_twice_the_last_level_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flush, "last_level_cache_bytes", lambda device: 3000)
    found = Flush("cpu")
    found()
    found()
    assert found.bytes == found.buffer.numel() * found.buffer.element_size() == 6000
    assert found.buffer.tolist() == [2] * 6000


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (["32K", "32K", "1024K", "32768K"], 32 * 2**20),
        (["48K", "2M", "1G"], 2**30),
        (["512"], 512),
        (["", "no size", "64K"], 2**16),
        ([], UNKNOWN_CACHE_BYTES),
    ],
)
def test_the_last_level_cache_is_the_largest_that_the_kernel_shows(sizes: list[str], expected: int, tmp_path: Path):
    for index, size in enumerate(sizes):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert flush._processor_cache_bytes(tmp_path) == expected


def test_a_processor_has_no_queue_of_launches():
    with pytest.raises(ValueError, match="needs a GPU"):
        measure(Recorded(), quick(launches="queued"), "cpu", [], None)
