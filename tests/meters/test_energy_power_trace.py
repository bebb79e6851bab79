"""Power fields: what is a new reading, what is no reading, and the integral of a trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.meters.power_trace import PowerReading, integrated_joules, power_field, refreshed

WATTS = st.lists(st.floats(50, 700), min_size=30, max_size=80, unique=True)


def polled(watts: list[float], stamps: str, every: int = 4) -> list[PowerReading]:
    """A field that is refreshed each 100 ms, polled `every` times between; stamped when it was refreshed, asked, or
    not at all.
    """
    found = []
    for number, value in enumerate(watts):
        for poll in range(every):
            at = int((number + poll / every) * 1e8)
            stamp = {"refresh": number * 100_000, "query": at // 1000, "none": 0}[stamps]
            found.append(PowerReading(at, stamp, value))
    return found


@pytest.mark.parametrize("stamps", ["refresh", "query", "none"])
@given(watts=WATTS, every=st.integers(2, 9))
def test_each_refresh_is_kept_once_however_the_driver_stamps(stamps: str, watts: list[float], every: int):
    kept = refreshed(polled(watts, stamps, every))
    assert [reading.watts for reading in kept] == watts
    assert [reading.at_ns for reading in kept] == [number * 10**8 for number in range(len(watts))]


@given(st.floats(50, 700), st.integers(2, 60))
def test_a_steady_power_is_refreshed_by_its_stamps_alone(watts: float, count: int):
    assert len(refreshed(polled([watts] * count, "refresh"))) == count
    assert len(refreshed(polled([watts] * count, "query"))) == 1
    assert refreshed([]) == []


@settings(max_examples=100)
@given(st.floats(50, 700), st.floats(-50, 50), st.floats(0.0, 1.0), st.floats(2.5, 6.0), st.integers(0, 2**62))
def test_the_integral_of_a_line_is_exact_wherever_the_window_lies(
    level: float, slope: float, begin: float, length: float, origin: int
):
    """Far from the clock's zero too, where nanoseconds as floats would lose their last digits."""
    trace = [PowerReading(origin + n * 10**8, n, level + slope * n / 10) for n in range(81)]
    end = begin + length
    joules, reason = integrated_joules(trace, origin + int(begin * 1e9), origin + int(end * 1e9))
    assert reason == ""
    assert joules == pytest.approx(level * length + slope * (end**2 - begin**2) / 2, rel=1e-6, abs=1e-6)


@given(st.integers(0, 18))
def test_a_trace_of_too_few_refreshes_has_no_integral(count: int):
    trace = [PowerReading(n * 10**8, n, 100.0 + n) for n in range(1, count + 1)]
    joules, reason = integrated_joules(trace, 0, 10**10)
    assert joules is None
    assert f"refreshed {count} times" in reason


def test_each_values_return_code_is_looked_at(fake_gpu: Any):
    value = SimpleNamespace(uiVal=123_456)
    fake_gpu.nvmlDeviceGetFieldValues = lambda handle, fields: [
        SimpleNamespace(nvmlReturn={186: 0, 185: 3}[field], timestamp=7, value=value) for field, scope in fields
    ]
    assert power_field(0, 186) == (7, 123.456)
    assert power_field(0, 185) is None


def test_a_driver_without_fields_gives_no_power(fake_gpu: Any):
    def refuse(handle: int, fields: list[Any]) -> list[Any]:
        raise fake_gpu.NVMLError("Not Supported")

    fake_gpu.nvmlDeviceGetFieldValues = refuse
    assert power_field(0, 186) is None
