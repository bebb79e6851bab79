"""Derived columns as the meters write them, against the same columns recomputed from random raw samples."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.interfaces import Readings, Session, Window, Work
from harness.meters import energy, gpu_energy
from harness.meters.codecarbon_model import TDP_VARIABLE, tdp_watts
from harness.meters.latency import Latency
from harness.meters.utilization import Utilization
from harness.rows.derived import disagreeing, recomputed

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
def test_energy_and_carbon(seed: int, fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    chance = random.Random(seed)
    monkeypatch.setenv(TDP_VARIABLE, "100")
    tdp_watts.cache_clear()

    def sleep(length: float) -> None:
        fake_gpu.now += length

    def instant(*_: Any) -> tuple[int, float]:
        # Within a percent, so that idle power settles; new at each refresh.
        return int(fake_gpu.now // 0.1), fake_gpu.watts * (1 + 0.001 * (fake_gpu.now // 0.1 % 7))

    clock = SimpleNamespace(perf_counter_ns=lambda: int(fake_gpu.now * 1e9), sleep=sleep)
    monkeypatch.setattr(gpu_energy, "time", clock)
    monkeypatch.setattr(gpu_energy, "power_field", instant)
    fake_gpu.nvmlDeviceGetEnforcedPowerLimit = lambda handle: 700_000
    ticks = iter([(100, 1000), (100 + chance.randrange(900), 2000)])
    monkeypatch.setattr(energy, "_busy_and_total_ticks", ticks.__next__)
    pue = chance.choice([None, 1.3])
    meter = energy.Energy(country_iso_code="FRA", pue=pue, embodied_total_grams=1.5e5, lifetime_seconds=1e8)
    fake_gpu.watts = 80.0
    meter.open("cuda")
    fake_gpu.watts = chance.uniform(100, 600)
    meter.start()
    start = fake_gpu.now
    for _ in range(chance.randrange(120, 400)):
        fake_gpu.now += 0.02
        meter.sample()
    steps = [chance.uniform(0.01, 0.1) for _ in range(chance.randrange(1, 30))]
    window = Window(Work(samples=2, trained_tokens=37), steps, [], int(start * 1e9), int(fake_gpu.now * 1e9))
    meter.stop()
    fake_gpu.watts = 90.0
    meter.probe(Session())
    row = row_of(window, [meter.readings(window)], "cuda")
    assert row["gpu_energy_joules"] > 0
    names = {name for name in recomputed(row) if any(word in name for word in ("energy", "power", "carbon", "sci_"))}
    assert {"gpu_energy_net_joules", "gpu_power_maximum_watts", "idle_power_moved_ratio"} < names
    assert {"carbon_estimated_grams", "sci_grams_per_token", "sci_estimated_grams_per_sample"} < names
    assert not [line for line in disagreeing(row) if line.split()[0] in names]
    tdp_watts.cache_clear()


@given(st.lists(TIMES, min_size=1, max_size=20), st.floats(1, 1e15), st.floats(1, 1e12), st.floats(1e3, 1e15))
def test_shares_of_the_roofs(steps: list[float], flops: float, moved: float, roof: float):
    window = Window(Work(samples=1, trained_tokens=1, model_flops=flops, moved_bytes=moved), steps, [], 0, 1)
    rate = len(steps) / sum(steps)
    shares = {
        f"{name}{of}_ratio": work * rate / (roof * scale)
        for name, work in (("mfu", flops), ("mbu", moved))
        for of, scale in (("", 2), ("_of_measured_roof", 1))
    }
    facts = {
        "datasheet_roof": {"flops_per_second": 2 * roof, "bytes_per_second": 2 * roof},
        "measured_roof": {"flops_per_second": roof, "bytes_per_second": roof},
    }
    row = {**row_of(window, [Readings(shares, facts=facts), Latency().readings(window)]), "step_moved_bytes": moved}
    assert shares.keys() < recomputed(row).keys()
    assert [line for line in disagreeing(row) if "model_flops" not in line] == []


def test_a_null_with_its_reason_contradicts_nothing():
    window = Window(Work(samples=1, prompt_tokens=1), [0.1], [], 0, 10**8)
    row = {**row_of(window, [Latency().readings(window)]), "gpu_energy_joules": 5.0, "gpu_power_mean_watts": 50.0}
    assert [line.split()[0] for line in disagreeing(row)] == [
        "gpu_energy_per_step_joules",
        "gpu_energy_per_token_joules",
    ]
    said = dict.fromkeys(("gpu_energy_per_step_joules", "gpu_energy_per_token_joules"), "caches were emptied")
    assert disagreeing({**row, "reasons_json": json.dumps(said)}) == []
