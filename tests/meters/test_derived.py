"""Derived columns as the meters write them, against the same columns recomputed from random raw samples."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.derived import disagreeing, recomputed
from harness.interfaces import Readings, Window, Work
from harness.meters import energy
from harness.meters.codecarbon_model import TDP_VARIABLE, tdp_watts
from harness.meters.latency import Latency
from harness.meters.utilization import Utilization

TIMES = st.floats(1e-6, 1e3)
STEPS = st.one_of(st.lists(TIMES, min_size=1, max_size=40), st.lists(TIMES, min_size=100, max_size=130))


def row_of(window: Window, readings: list[Readings], device: str = "cpu") -> dict[str, Any]:
    """As much of a row as derived columns stand on."""
    facts: dict[str, Any] = {}
    row: dict[str, Any] = {
        "device": device,
        "step_seconds": window.step_seconds,
        "device_step_seconds": window.device_step_seconds,
        "window_seconds": window.seconds,
        "token_kind": window.work.token_kind,
        "step_tokens_count": window.work.tokens,
        "step_samples_count": window.work.samples,
        "step_model_flops": window.work.model_flops,
        **window.samples,
    }
    for found in readings:
        row |= {**found.values, **found.samples}
        facts |= found.facts
    return {**row, "facts_json": json.dumps(facts)}


@given(STEPS, st.lists(TIMES, max_size=40), st.integers(1, 8), st.integers(2, 64), st.floats(1, 1e18))
def test_times_and_rates(steps: list[float], device: list[float], samples: int, tokens: int, flops: float):
    work = Work(samples=samples, output_tokens=samples * tokens, model_flops=flops)
    window = Window(work, steps, device, 0, int(sum(steps) * 1e9) + 1)
    meter = Utilization()
    meter.open("cpu")
    meter.start()
    meter.stop()
    row = row_of(window, [Latency().readings(window), meter.readings(window)])
    assert disagreeing(row) == []
    assert "model_flops_per_second" in recomputed(row)
    assert ("latency_p90_high_seconds" in recomputed(row)) == (len(steps) >= 100)
    assert ("device_latency_p50_seconds" in recomputed(row)) == bool(device)


@given(
    st.integers(2, 12).flatmap(
        lambda tokens: st.lists(st.lists(TIMES, min_size=tokens, max_size=tokens), min_size=1, max_size=6)
    ),
    st.integers(1, 4),
)
def test_token_times(requests: list[list[float]], samples: int):
    whole = [sum(waits) for waits in requests]
    window = Window(
        Work(samples=samples, output_tokens=samples * len(requests[0])),
        whole,
        [],
        0,
        int(sum(whole) * 1e9) + 1,
        samples={
            "ttft_seconds": [waits[0] for waits in requests],
            "token_gap_seconds": [wait for waits in requests for wait in waits[1:]],
            "request_seconds": whole,
        },
    )
    row = row_of(window, [Latency().readings(window)])
    assert disagreeing(row) == []
    assert "tpot_p50_seconds" in recomputed(row)


@pytest.mark.parametrize("seed", range(8))
def test_energy(seed: int, fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    chance = random.Random(seed)
    monkeypatch.setenv(TDP_VARIABLE, "100")
    tdp_watts.cache_clear()

    def sleep(length: float) -> None:
        fake_gpu.now += length

    clock = SimpleNamespace(perf_counter_ns=lambda: int(fake_gpu.now * 1e9), sleep=sleep, perf_counter=lambda: 0.0)
    monkeypatch.setattr(energy, "time", clock)
    ticks = iter([(100, 1000), (100 + chance.randrange(900), 2000)])
    monkeypatch.setattr(energy, "_busy_and_total_ticks", ticks.__next__)
    meter = energy.Energy(country_iso_code="FRA")
    meter.open("cuda")
    fake_gpu.watts = chance.uniform(100, 700)
    meter.start()
    start = fake_gpu.now
    for _ in range(chance.randrange(120, 400)):
        fake_gpu.now += 0.02
        meter.sample()
    steps = [chance.uniform(0.01, 0.1) for _ in range(chance.randrange(1, 30))]
    window = Window(Work(samples=2, trained_tokens=37), steps, [], int(start * 1e9), int(fake_gpu.now * 1e9))
    meter.stop()
    row = row_of(window, [meter.readings(window)], "cuda")
    assert row["gpu_energy_joules"] > 0
    names = {name for name in recomputed(row) if "energy" in name or "power" in name or "carbon" in name}
    assert {"gpu_energy_net_joules", "gpu_power_maximum_watts", "carbon_estimated_grams"} < names
    assert not [line for line in disagreeing(row) if line.split()[0] in names]
    tdp_watts.cache_clear()
