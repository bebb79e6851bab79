"""What a window ran under: every clock event and every foreign process gets its verdict, unknown stays unknown."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.interfaces import Meter, Readings, Session, Window, Work
from harness.meters import clock_events, conditions, gpu_processes
from harness.meters.conditions import Conditions
from harness.meters.gpu_processes import Listed, foreign
from harness.meters.sm_clock import hertz
from harness.protocol import Protocol
from harness.run.execute import _read
from harness.run.measure import Measurement, measure, sampling

GIB = 2**30
WINDOW = Window(Work(samples=1, trained_tokens=1), [0.1], [], 0, 10**8)
#: Fields of the driver that the simulated GPU has; the numbers are NVML's, not this program's.
POWER_CAP, SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE = 74, 269, 270, 271
COUNTER_OF = {0x4: POWER_CAP, 0x20: SOFTWARE_THERMAL, 0x40: HARDWARE_THERMAL, 0x80: POWER_BRAKE}
BITS = list(clock_events.EVENTS)
INVALID_BITS = [0x8, 0x20, 0x40, 0x80]


class Simulated:
    """Adds to the pretended GPU what a window is watched by: clock events, their counters, clocks, processes."""

    NVML_FI_DEV_MEMORY_TEMP = 82
    NVML_VALUE_TYPE_UNSIGNED_INT, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 1, 3

    def __init__(self, error: type[Exception]) -> None:
        self.error = error
        self.driver, self.events = "580.159.04", 0
        self.fields = {POWER_CAP: 7 * 10**9, SOFTWARE_THERMAL: 5, HARDWARE_THERMAL: 6, POWER_BRAKE: 7}
        self.temperature, self.memory_temperature, self.sm_clock, self.memory_clock = 50, 60, 1980, 2619
        self.default_clock: int | None = 1980
        self.processes: dict[int, int | None] = {os.getpid(): GIB}
        self.drawing: list[int] = []
        self.silent: set[str] = set()

    def _may(self, what: str) -> None:
        if what in self.silent:
            raise self.error("Not Supported")

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._may("temperature")
        return self.temperature

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        self._may("clocks")
        return {1: self.sm_clock, 2: self.memory_clock}[clock]

    def nvmlDeviceGetDefaultApplicationsClock(self, handle: int, clock: int) -> int:
        if self.default_clock is None:
            raise self.error("Not Supported")
        return self.default_clock

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        self._may("events")
        return self.events

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        self._may("processes")
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in self.processes.items()]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in self.drawing]

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[Any]:
        self._may("fields")
        return [self._field(number) for number in fields]

    def _field(self, number: int) -> Any:
        if number == self.NVML_FI_DEV_MEMORY_TEMP and "memory temperature" not in self.silent:
            return SimpleNamespace(nvmlReturn=0, valueType=1, value=SimpleNamespace(uiVal=self.memory_temperature))
        if number in self.fields:
            return SimpleNamespace(nvmlReturn=0, valueType=3, value=SimpleNamespace(ullVal=self.fields[number]))
        return SimpleNamespace(nvmlReturn=3, valueType=0, value=SimpleNamespace(uiVal=0, ullVal=0))


@pytest.fixture
def watched(fake_gpu: Any) -> Simulated:
    """The one GPU of this machine, with all that is watched in a window."""
    found = Simulated(fake_gpu.NVMLError)
    for name in dir(found):
        if name.startswith(("nvml", "NVML")):
            setattr(fake_gpu, name, getattr(found, name))
    return found


def window(*moments: Callable[[], None], samples: list[float] | None = None) -> Readings:
    """A window with a poll between every two of `moments`, which change the GPU; steps with clocks `samples`."""
    meter = Conditions()
    meter.open("cuda")
    meter.start()
    for moment in moments:
        moment()
        meter.sample()
    meter.samples = list(samples or [])
    meter.stop()
    return meter.readings(WINDOW)


def nothing() -> None:
    """The GPU stays as it is."""


def test_a_quiet_window_has_every_column_and_no_flag(watched: Simulated):
    found = window(nothing, nothing, samples=[1.9e9, 1.8e9, 1.7e9])
    known = {name for name, value in found.values.items() if value is not None} | set(found.reasons)
    assert {metric.name for metric in Conditions.metrics} == known
    assert found.flags == []
    assert found.facts["clock_events"] == []
    assert found.facts["conditions_poll_count"] == 4
    assert found.values["foreign_process_count"] == found.values["foreign_memory_bytes"] == 0
    assert found.values["power_capped_ratio"] == found.values["software_thermal_slowdown_seconds"] == 0
    assert found.values["in_sample_sm_clock_hertz"] == 1.8e9
    assert found.samples["in_sample_sm_clock_hertz_samples"] == [1.9e9, 1.8e9, 1.7e9]


def test_clocks_and_temperatures_are_those_of_the_window(watched: Simulated):
    def warm() -> None:
        watched.temperature, watched.memory_temperature, watched.sm_clock, watched.memory_clock = 71, 88, 1410, 2000

    def cool() -> None:
        watched.temperature, watched.memory_temperature, watched.sm_clock, watched.memory_clock = 64, 80, 1980, 2619

    found = window(warm, cool).values
    assert (found["gpu_temperature_begin_celsius"], found["gpu_temperature_end_celsius"]) == (50, 64)
    assert found["gpu_memory_temperature_celsius"] == 88
    assert found["sm_clock_minimum_hertz"] == 1.41e9
    assert (found["memory_clock_hertz"], found["memory_clock_minimum_hertz"]) == (2.619e9, 2e9)


@pytest.mark.parametrize("bit", BITS, ids=lambda bit: clock_events.EVENTS[bit].replace(" ", "-"))
@pytest.mark.parametrize("place", range(4))
def test_a_polled_event_gets_its_verdict_wherever_it_is_seen(bit: int, place: int, watched: Simulated):
    def at(index: int) -> Callable[[], None]:
        return lambda: setattr(watched, "events", bit if index == place else 0)

    at(0)()
    found = window(at(1), at(2), at(3))
    event = clock_events.EVENTS[bit]
    assert found.facts["clock_events"] == [event]
    assert found.facts["clock_event_poll_ratios"] == {event: {0: 1, 1: 1, 2: 1, 3: 2}[place] / 5}
    assert [flag for flag in found.flags if f"invalid: {event} in" in flag] == found.flags
    assert len(found.flags) == (bit in INVALID_BITS)


@pytest.mark.parametrize("bit", COUNTER_OF, ids=lambda bit: clock_events.EVENTS[bit].replace(" ", "-"))
def test_an_event_between_two_polls_is_known_by_its_counter(bit: int, watched: Simulated):
    def pass_by() -> None:
        watched.fields[COUNTER_OF[bit]] += 300_000

    found = window(pass_by, lambda: time.sleep(0.002))
    event = clock_events.EVENTS[bit]
    assert found.facts["clock_events"] == [event]
    assert found.facts["clock_event_poll_ratios"] == {}
    if bit == 0x4:
        assert found.flags == []
        assert 0 < found.values["power_capped_ratio"] <= 0.0003 / 0.002
    else:
        assert found.flags == [f"invalid: {event} for 0.0003 s of the window"]
        assert found.values[conditions.EVENT_COLUMNS[event]] == pytest.approx(0.0003)


@given(st.lists(st.integers(0, 2**11 - 1), max_size=8), st.sets(st.sampled_from(clock_events.COUNTED)))
def test_a_window_is_invalid_exactly_where_the_part_was_in_distress(masks: list[int], moved: set[str]):
    seconds = {event: 0.01 if event in moved else 0.0 for event in clock_events.COUNTED}
    seen = {clock_events.EVENTS[bit] for bit in BITS if any(mask & bit for mask in masks)}
    flags = clock_events.verdict(masks, seconds)
    assert {event for event in clock_events.INVALID if any(event in flag for flag in flags)} == (seen | moved) & set(
        clock_events.INVALID
    )
    assert len(flags) == len((seen | moved) & set(clock_events.INVALID))
    assert all(flag.startswith("invalid: ") for flag in flags)


def test_a_bit_that_nobody_knows_yet_is_named_by_its_number():
    assert clock_events.names(0x8004) == ["software power cap", "bit 0x8000"]


@pytest.mark.parametrize(
    ("driver", "first"),
    [
        ("570.172.08", 269),
        ("575.51.03", 251),
        ("580.65.06", 251),
        ("580.82.07", 269),
        ("580.159.04", 269),
        ("590.44.01", 269),
        ("615.71", 269),
    ],
)
def test_the_counters_have_the_numbers_of_the_driver(driver: str, first: int, watched: Simulated):
    watched.driver = driver
    watched.fields = {POWER_CAP: 0, first: 0, first + 1: 0, first + 2: 0}
    found = window(lambda: watched.fields.update({first + 1: 10**6}))
    assert found.flags == ["invalid: hardware thermal slowdown for 0.001 s of the window"]


@pytest.mark.parametrize("silent", ["fields", "events", "temperature", "clocks", "processes", "memory temperature"])
def test_what_nvml_does_not_answer_is_null_with_a_reason(silent: str, watched: Simulated):
    watched.silent = {silent}
    found = window(nothing, samples=[1.5e9])
    names = {
        "fields": [
            "power_capped_ratio",
            "hardware_power_brake_seconds",
            "software_thermal_slowdown_seconds",
            "gpu_memory_temperature_celsius",
        ],
        "events": [],
        "temperature": ["gpu_temperature_begin_celsius", "gpu_temperature_end_celsius"],
        "clocks": ["sm_clock_minimum_hertz", "memory_clock_hertz", "memory_clock_minimum_hertz"],
        "processes": ["foreign_process_count", "foreign_memory_bytes"],
        "memory temperature": ["gpu_memory_temperature_celsius"],
    }[silent]
    assert found.flags == []
    for name in names:
        assert found.values[name] is None
        assert found.reasons[name]
    others = [metric.name for metric in Conditions.metrics if metric.name.startswith(("foreign", "sm_", "gpu_temp"))]
    for name in set(others) - set(names):
        assert found.values[name] is not None


@pytest.mark.parametrize("absent", [POWER_CAP, SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE])
def test_one_counter_that_is_absent_leaves_the_others(absent: int, watched: Simulated):
    del watched.fields[absent]
    found = window(nothing)
    columns = ["power_capped_ratio", *conditions.EVENT_COLUMNS.values()]
    null = [name for name in columns if found.values[name] is None]
    assert len(null) == 1
    assert "error 3" in found.reasons[null[0]]


def test_a_counter_that_cannot_be_in_nanoseconds_is_null(watched: Simulated):
    found = window(lambda: watched.fields.update({POWER_CAP: 10**14}))
    assert found.values["power_capped_ratio"] is None
    assert "unit" in found.reasons["power_capped_ratio"]


def test_a_counter_that_starts_again_is_null(watched: Simulated):
    found = window(lambda: watched.fields.update({POWER_CAP: 0}))
    assert found.values["power_capped_ratio"] is None
    assert "backwards" in found.reasons["power_capped_ratio"]


PIDS = st.integers(10**6, 10**6 + 30)


@given(st.lists(st.dictionaries(PIDS, st.integers(0, GIB), max_size=3), min_size=1, max_size=6))
def test_every_process_beside_ones_own_is_foreign(others: list[dict[int, int]]):
    own = os.getpid()
    polls = [Listed({own: GIB, **poll}, own=frozenset({own})) for poll in others]
    found = foreign(polls)
    assert set(found.pids) == {pid for poll in others for pid in poll}
    assert found.count == len(found.pids)
    assert found.bytes == max(sum(poll.values()) for poll in others)
    assert bool(gpu_processes.verdict(found)) == bool(found.pids)


@given(st.lists(st.sets(PIDS, max_size=3), min_size=1, max_size=6))
def test_under_another_number_one_process_at_the_start_is_ones_own(lists: list[set[int]]):
    polls = [Listed(dict.fromkeys(pids, GIB)) for pids in lists]
    found, seen = foreign(polls), set().union(*lists)
    expected = len(seen) - bool(lists[0]) if seen else None
    assert found.count == expected
    assert bool(gpu_processes.verdict(found)) == bool(expected)
    assert found.note


def test_a_process_that_nvml_gives_no_memory_of_has_none(watched: Simulated):
    found = window(lambda: watched.processes.update({4242: None}))
    assert found.flags == ["invalid: foreign process on the GPU (pid 4242)"]
    assert found.values["foreign_process_count"] == 1
    assert found.values["foreign_memory_bytes"] is None
    assert found.reasons["foreign_memory_bytes"]


def test_a_desktop_does_not_count_but_one_that_begins_to_draw_does(watched: Simulated):
    watched.drawing = [900]
    assert window(nothing).flags == []
    assert window(lambda: watched.drawing.append(901)).flags == ["invalid: foreign process on the GPU (pid 901)"]


def test_what_makes_a_window_invalid_becomes_a_flag_of_the_row_that_keeps_it_out_of_rankings():
    from harness.report.entries import disqualifying

    class Judge(Meter):
        metrics = ()

        def readings(self, window: Window) -> Readings:
            return Readings(flags=["invalid: hardware power brake for 0.1 s of the window"])

    row: dict[str, Any] = {"flags": ["other"], "reasons": {}, "facts": {}}
    _read([Judge(), Judge()], Measurement(WINDOW, [], True, "enough", True), row)
    assert row["flags"] == ["other", *["invalid: hardware power brake for 0.1 s of the window"] * 2]
    assert disqualifying(row["flags"]) == row["flags"]


def test_where_nobody_is_listed_others_are_unknown(watched: Simulated):
    watched.processes = {}
    found = window(nothing)
    assert found.values["foreign_process_count"] is None
    assert "cannot be seen" in found.reasons["foreign_process_count"]
    assert found.flags == []


def test_a_process_of_the_same_session_is_ones_own():
    code = (
        "import os, subprocess, sys\n"
        "os.setsid()\n"
        "from harness.meters.gpu_processes import _is_own\n"
        "child = subprocess.Popen(['sleep', '5'])\n"
        "stranger = subprocess.Popen(['sleep', '5'], start_new_session=True)\n"
        "print(_is_own(os.getpid()), _is_own(child.pid), _is_own(stranger.pid), _is_own(os.getppid()))\n"
        "child.kill(); stranger.kill()\n"
    )
    leader = "import subprocess, sys; print(subprocess.run([sys.executable, '-c', sys.argv[1]], "
    leader += "capture_output=True, text=True).stdout)"
    done = subprocess.run([sys.executable, "-c", leader, code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True", "False", "False"], done.stderr


@pytest.mark.parametrize("seed", range(20))
def test_a_process_that_starts_in_a_window_is_always_found(seed: int, watched: Simulated):
    """It comes at a random time, between two polls as a rule, and is there for a poll's period or until the end."""
    draw = random.Random(seed)
    meter = Conditions()
    meter.period_seconds = 0.02  # type: ignore[misc]
    meter.open("cuda")
    stays = draw.random() < 0.5

    def visit() -> None:
        time.sleep(draw.uniform(0.001, 0.05))
        watched.processes = {**watched.processes, 4242: GIB}
        if not stays:
            polls = len(meter.polls)
            while len(meter.polls) < polls + 2:
                time.sleep(0.001)
            watched.processes = {os.getpid(): GIB}

    visitor = threading.Thread(target=visit)
    with sampling([meter]):
        meter.start()
        visitor.start()
        visitor.join()
        meter.stop()
    assert meter.readings(WINDOW).flags == ["invalid: foreign process on the GPU (pid 4242)"]


def test_what_happens_before_and_after_the_window_is_not_its_own(watched: Simulated):
    meter = Conditions()
    meter.open("cuda")
    watched.events, watched.processes = 0x40, {**watched.processes, 4242: GIB}
    watched.fields[HARDWARE_THERMAL] += 10**9
    meter.sample()
    watched.events, watched.processes = 0, {os.getpid(): GIB}
    meter.start()
    meter.stop()
    watched.events, watched.processes = 0x40, {**watched.processes, 4242: GIB}
    meter.sample()
    assert meter.readings(WINDOW).flags == []


@given(
    st.integers(0, 131),
    st.integers(1, 2**60),
    st.integers(1, 2**60),
    st.integers(10**3, 10**10),
    st.floats(0.2, 3),
    st.lists(st.integers(132, 200), max_size=4),
)
def test_a_clock_is_cycles_over_time_of_one_multiprocessor(
    multiprocessor: int, cycles: int, begun: int, nanoseconds: int, gigahertz: float, others: list[int]
):
    passed = round(nanoseconds * gigahertz)
    # Other multiprocessors count from a start of their own.
    ends = [(other, cycles + 17 * passed, begun + nanoseconds) for other in others]
    found = hertz((multiprocessor, cycles, begun), [*ends, (multiprocessor, cycles + passed, begun + nanoseconds)])
    assert found == pytest.approx(passed / nanoseconds * 1e9)
    assert hertz((multiprocessor, cycles, begun), ends) is None


@pytest.mark.parametrize(("default", "slow"), [(1980, 2), (None, 1), (1000, 0)])
def test_slow_samples_are_counted_and_kept(default: int | None, slow: int, watched: Simulated):
    watched.default_clock = default
    samples = [1.9e9, 1.9e9, 1.45e9, 1.9e9, 1.2e9]
    found = window(nothing, samples=samples)
    assert found.values["slow_clock_sample_count"] == slow
    assert found.samples["in_sample_sm_clock_hertz_samples"] == samples


class Steps(Session):
    """Steps that do nothing, and note when they are done."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def before_step(self) -> None:
        self.calls.append("before")

    def step(self) -> None:
        self.calls.append("step")

    def work(self) -> Work:
        return Work(samples=1, trained_tokens=1)


class StampedClock:
    """A clock of the GPU that says 1.5 GHz, and notes when it is asked."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def begin(self) -> None:
        self.calls.append("begin")

    def end(self) -> float:
        self.calls.append("end")
        return 1.5e9


def test_each_step_is_stamped_right_beside_it_and_the_warm_up_is_left_out(
    watched: Simulated, monkeypatch: pytest.MonkeyPatch
):
    session, meter = Steps(), Conditions()
    made: list[int] = []
    monkeypatch.setattr(conditions, "SampleClock", lambda: made.append(1) or StampedClock(session.calls))
    meter.open("cuda")
    found = measure(session, Protocol(), "cpu", [meter], 40).window
    assert session.calls == ["before", "begin", "step", "end"] * 40
    values = meter.readings(found)
    assert values.samples["in_sample_sm_clock_hertz_samples"] == [1.5e9] * found.steps
    assert found.steps < 40
    assert made == [1], "one clock for the whole trial"


def test_a_protocol_without_the_clock_stamps_nothing_and_says_so(watched: Simulated, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conditions, "SampleClock", lambda: pytest.fail("no clock was asked for"))
    meter = Conditions()
    meter.open("cuda")
    found = measure(Steps(), Protocol(sm_clock=False), "cpu", [meter], 20).window
    readings = meter.readings(found)
    assert readings.values["in_sample_sm_clock_hertz"] is None
    assert "protocol.sm_clock" in readings.reasons["in_sample_sm_clock_hertz"]
    assert "in_sample_sm_clock_hertz_samples" not in readings.samples


def test_without_triton_the_clock_is_null_and_the_window_is_measured(
    watched: Simulated, monkeypatch: pytest.MonkeyPatch
):
    def fails() -> None:
        made.append(1)
        raise ModuleNotFoundError("No module named 'triton'")

    made: list[int] = []
    monkeypatch.setattr(conditions, "SampleClock", fails)
    meter = Conditions()
    meter.open("cuda")
    readings = meter.readings(measure(Steps(), Protocol(), "cpu", [meter], 20).window)
    assert readings.values["in_sample_sm_clock_hertz"] is None
    assert "triton" in readings.reasons["in_sample_sm_clock_hertz"]
    assert made == [1], "not tried again at every step"


def test_a_processor_has_a_load_and_no_gpu_columns():
    meter = Conditions()
    meter.open("cpu")
    assert meter.period_seconds is None, "no thread wakes up in a processor's measurement"
    readings = meter.readings(measure(Steps(), Protocol(), "cpu", [meter], 20).window)
    assert readings.values["load_average_begin_count"] >= 0
    for metric in Conditions.metrics:
        assert readings.values.get(metric.name) is not None or readings.reasons[metric.name]
    assert readings.reasons["foreign_process_count"] == "no GPU"
    assert readings.flags == ()


def test_the_cores_frequency_is_the_mean_of_those_that_the_kernel_shows(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    for core, text in (("cpu0", "2000000\n"), ("cpu1", "3000000\n"), ("cpu10", "<unknown>\n")):
        (tmp_path / core / "cpufreq").mkdir(parents=True)
        (tmp_path / core / "cpufreq" / "scaling_cur_freq").write_text(text)
    monkeypatch.setattr(conditions, "CORES", tmp_path)
    meter = Conditions()
    meter.open("cpu")
    readings = meter.readings(measure(Steps(), Protocol(), "cpu", [meter], 20).window)
    assert readings.values["cpu_clock_begin_hertz"] == readings.values["cpu_clock_end_hertz"] == 2.5e9


def test_the_doctor_names_the_source_of_each_part(watched: Simulated):
    assert "hardware thermal slowdown" in Conditions().availability("cuda")["clock events"]
    watched.silent = {"fields", "processes"}
    found = Conditions().availability("cuda")
    assert "Not Supported" in found["clock events"]
    assert found["foreign processes"].startswith("unavailable")
    assert Conditions().availability("cpu")["clock events"] == "unavailable: no GPU"
