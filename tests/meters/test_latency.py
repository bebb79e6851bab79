"""Step times and token times from raw samples, by the formulas of vLLM's serving benchmark."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.interfaces import Window, Work
from harness.meters.latency import Latency, token_times

TIMES = st.floats(1e-5, 10)
#: Requests of equal length: the time of every token after the request's start.
REQUESTS = st.integers(2, 9).flatmap(
    lambda tokens: st.lists(st.lists(TIMES, min_size=tokens, max_size=tokens), min_size=1, max_size=8)
)


def window(steps: list[float], work: Work | None = None, samples: dict[str, list[float]] | None = None) -> Window:
    end = int(sum(steps) * 1e9)
    return Window(work or Work(samples=1, prompt_tokens=7), steps, [], 0, end, samples=samples or {})


@given(REQUESTS)
def test_token_times_equal_vllms(requests: list[list[float]]):
    waits = [[*request] for request in requests]
    arrivals = [list(np.cumsum(wait)) for wait in waits]
    ttft = [arrival[0] for arrival in arrivals]
    gaps = [gap for arrival in arrivals for gap in np.diff(arrival)]
    whole = [arrival[-1] for arrival in arrivals]
    new = len(requests[0])
    found = token_times(
        window(
            whole,
            Work(samples=1, prompt_tokens=3, output_tokens=new),
            {"token_gap_seconds": gaps, "ttft_seconds": ttft, "request_seconds": whole},
        )
    )
    # vllm/benchmarks/serve.py: tpot = (latency - ttft) / (output_len - 1); itl pooled over requests.
    tpot = [(latency - first) / (new - 1) for latency, first in zip(whole, ttft, strict=True)]
    assert found["ttft_p50_seconds"] == pytest.approx(np.median(ttft))
    assert found["tpot_p50_seconds"] == pytest.approx(np.median(tpot))
    assert found["itl_p50_seconds"] == pytest.approx(np.median(gaps))


@given(st.lists(TIMES, min_size=2, max_size=20))
def test_one_request_adds_up_to_its_end_to_end_time(waits: list[float]):
    arrival = np.cumsum(waits)
    samples = {
        "token_gap_seconds": list(np.diff(arrival)),
        "ttft_seconds": [arrival[0]],
        "request_seconds": [arrival[-1]],
    }
    found = token_times(window([arrival[-1]], Work(samples=1, output_tokens=len(waits)), samples))
    whole = found["ttft_p50_seconds"] + found["tpot_p50_seconds"] * (len(waits) - 1)
    assert whole == pytest.approx(arrival[-1], rel=1e-9)


@given(st.lists(TIMES, min_size=2, max_size=8), st.integers(1, 4))
def test_tokens_that_arrive_together_still_count_one_by_one_in_tpot(waits: list[float], chunk: int):
    # Speculative decoding delivers several tokens at once: there are fewer gaps than tokens.
    arrival, tokens = np.cumsum(waits), len(waits) * chunk
    samples = {
        "token_gap_seconds": list(np.diff(arrival)),
        "ttft_seconds": [arrival[0]],
        "request_seconds": [arrival[-1]],
    }
    found = token_times(window([arrival[-1]], Work(samples=1, output_tokens=tokens), samples))
    assert found["tpot_p50_seconds"] == pytest.approx((arrival[-1] - arrival[0]) / (tokens - 1), rel=1e-9)
    assert found["itl_p50_seconds"] == pytest.approx(np.median(np.diff(arrival)), rel=1e-9)


def test_a_decode_step_is_its_own_token_time():
    found = token_times(window([0.1, 0.2, 0.4], Work(samples=2, output_tokens=2)))
    assert found == {"tpot_p50_seconds": 0.2, "itl_p50_seconds": 0.2}


def test_a_workload_without_output_tokens_has_no_token_times_and_says_so():
    found = Latency().readings(window([0.1] * 3))
    for name in ("ttft_p50_seconds", "tpot_p50_seconds", "itl_p50_seconds"):
        assert found.values.get(name) is None
        assert "one by one" in found.reasons[name]


@pytest.mark.parametrize(("percent", "needed"), [(90, 100), (99, 1000)])
def test_a_percentile_and_its_interval_are_null_until_enough_samples_bear_them(percent: int, needed: int):
    middle, low, high = (f"latency_p{percent}{end}_seconds" for end in ("", "_low", "_high"))
    few = Latency().readings(window([0.1] * (needed - 1)))
    for name in (middle, low, high):
        assert few.values.get(name) is None
        assert str(needed) in few.reasons[name]
    samples = [0.001 * (1 + i) for i in range(needed)]
    enough = Latency().readings(window(samples))
    assert enough.values[middle] == pytest.approx(np.percentile(samples, percent))
    assert enough.values[low] < enough.values[middle] < enough.values[high]
    assert not {middle, low, high} & set(enough.reasons)


@given(st.lists(TIMES, min_size=1, max_size=50), st.integers(1, 64), st.integers(1, 8))
def test_throughput_times_mean_latency_is_the_work_of_a_step(steps: list[float], tokens: int, samples: int):
    values = Latency().readings(window(steps, Work(samples=samples, trained_tokens=tokens))).values
    assert values["throughput_tokens_per_second"] * values["latency_mean_seconds"] == pytest.approx(tokens)
    assert values["throughput_samples_per_second"] * values["latency_mean_seconds"] == pytest.approx(samples)
    assert values["latency_p50_seconds"] == statistics.median(steps)
    assert values["latency_spread_ratio"] >= 0


def test_every_metric_has_a_value_or_a_reason():
    found = Latency().readings(window([0.1] * 3))
    assert {metric.name for metric in Latency.metrics} == {
        name for name, value in found.values.items() if value is not None
    } | set(found.reasons)


def test_device_times_are_given_where_there_are_any():
    plain = Window(Work(samples=1, prompt_tokens=1), [0.2, 0.4], [0.1, 0.3], 0, 10**9)
    assert Latency().readings(plain).values["device_latency_p50_seconds"] == pytest.approx(0.2)
