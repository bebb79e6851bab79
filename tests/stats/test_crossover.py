"""Crossings of power laws against their closed form, coverage by simulation, and honest answers without a crossing."""

from __future__ import annotations

import json
import math
import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.stats.crossover import bounds, crossover
from harness.stats.intervals import ratio_interval
from harness.stats.separation import p_value

LENGTHS = (256, 512, 1024, 2048, 4096)


def power_laws(crossing: float, power: float, noise: float, pairs: int, seed: int = 0) -> dict[float, list[float]]:
    """Log ratios of `x`-linear A over B that grows with a power: equal at `crossing`, A faster beyond."""
    generator = random.Random(seed)
    return {
        x: [(1 - power) * math.log(x / crossing) + generator.gauss(0, noise) for _ in range(pairs)] for x in LENGTHS
    }


@given(st.floats(270, 4000), st.floats(1.2, 3))
def test_power_laws_cross_where_algebra_says(crossing: float, power: float):
    found = crossover(power_laws(crossing, power, 0, 3))
    assert found.kind == "from"
    assert found.length == pytest.approx(crossing)
    assert found.low == pytest.approx(crossing)
    assert found.high == pytest.approx(crossing)


@given(st.floats(300, 3500), st.integers(3, 6), st.integers(0, 10_000))
def test_bounds_lie_round_the_crossing(crossing: float, pairs: int, seed: int):
    found = crossover(power_laws(crossing, 2, 0.02, pairs, seed))
    if found.length is not None:
        assert found.high is not None
        assert (found.low or 0) <= found.length <= found.high


def test_the_interval_covers_the_truth_as_often_as_it_says():
    total, held = 400, 0
    for seed in range(total):
        found = crossover(power_laws(1024.0 * math.sqrt(2), 2, 0.1, 5, seed))
        assert found.kind == "from"
        assert found.high is not None
        held += (found.low or 0) <= 1024 * math.sqrt(2) <= found.high
    assert held / total >= 0.95


def test_equal_variants_seldom_seem_to_cross():
    generator = random.Random(1)
    kinds = [crossover({x: [generator.gauss(0, 0.05) for _ in range(4)] for x in LENGTHS}).kind for _ in range(400)]
    assert sum(kind != "undecided" for kind in kinds) <= 400 * 0.05 + 2 * math.sqrt(400 * 0.05 * 0.95)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_bounds_agree_with_the_reports_own_test(logarithms: list[float]):
    found, p = bounds(logarithms), p_value(logarithms, math.sqrt(2) * 0.05)
    if abs(p - 0.05) > 1e-6 and found.half > 1e-9:
        assert (found.sign != 0) == (p < 0.05)
    if len(logarithms) > 2:
        interval = ratio_interval(logarithms)
        assert interval.low == pytest.approx(math.exp(found.low))
        assert interval.high == pytest.approx(math.exp(found.high))


@pytest.mark.parametrize(
    ("logs", "kind", "words"),
    [
        ((-0.5, -0.9), "already", "already faster at the shortest length, 1"),
        ((0.5, 0.9), "never", "never within 1 to 2"),
        ((0.01, -0.01), "undecided", "undecided between 1 and 2"),
        ((0.9, 0.01), "undecided", "undecided between 1 and 2; slower below"),
        ((-0.9, 0.01), "already", "undecided beyond 1"),
        ((-0.9, 0.9), "only_below", "faster at 1 and below, slower at 2"),
        ((-0.9, 0.9, -0.9), "several", "A is faster at 1, 3 alone"),
        ((0.01, -0.9), "from", "(below 1 to"),
        ((-0.01, -0.9), "from", "from below 1 on"),
        ((0.9, -0.9, 0.01), "from", "undecided beyond 2"),
    ],
)
def test_what_the_runs_do_not_show_is_said(logs: tuple[float, ...], kind: str, words: str):
    found = crossover({place + 1: [value] for place, value in enumerate(logs)})
    assert found.kind == kind
    assert words in found.text
    assert (found.length is None) or kind == "from"


@pytest.mark.parametrize("ratios", [{}, {512: [0.1]}, {0: [0.1], 1: [0.1]}])
def test_one_length_is_no_sweep(ratios: dict[float, list[float]]):
    with pytest.raises(ValueError, match="two lengths"):
        crossover(ratios)


def test_a_single_run_is_trusted_as_far_as_the_report_trusts_it():
    assert crossover({1: [0.05], 2: [-0.05]}).kind == "undecided"
    assert crossover({1: [0.05], 2: [-0.05]}, {1: 0.001, 2: 0.001}).kind == "from"


def rows_of(times: dict[str, list[float]], seeds: int = 3, **changes: object) -> pd.DataFrame:
    """Rows of `harness.read_results` of a sweep over LENGTHS."""
    part = {"target": "x.Y", "changes": []}
    found = []
    for technique, seconds in times.items():
        for length, latency in zip(LENGTHS, seconds, strict=True):
            for seed in range(seeds):
                trial = {
                    "model": {"name": "m", "options": {"width": 8}, **part},
                    "workload": {"name": "w", "options": {"sequence_length": length, "batch_size": 1}, **part},
                    "corpus": {"name": "c", "options": {}, **part},
                    "techniques": [{"name": technique, "options": {}, **part}],
                    "protocol": {"cache": "hot"},
                    "meters": [],
                    "device": "cpu",
                    "seed": seed,
                    "content": {},
                }
                name = f"{technique}-{length}-{seed}"
                found.append(
                    {
                        "row_id": name,
                        "trial_id": name,
                        "config_id": f"{technique}-{length}",
                        "status": "ok",
                        "flags": [],
                        "model": "m",
                        "technique": technique,
                        "workload": f"w[sequence_length={length}]",
                        "corpus": "c",
                        "device_name": "box",
                        "started_at": "2026-01-01",
                        "seed": seed,
                        "trial_json": json.dumps(trial),
                        "latency_p50_seconds": latency * (1 + 0.001 * seed),
                        "latency_spread_ratio": 0.01,
                        **changes,
                    }
                )
    return pd.DataFrame(found)


QUADRATIC, LINEAR = [x * x / 1500 for x in LENGTHS], [float(x) for x in LENGTHS]


def test_rows_of_a_sweep_tell_where_one_technique_overtakes_another():
    rows = rows_of({"none": QUADRATIC, "linear": LINEAR})
    found = harness.crossover(rows, "linear", "none")
    assert found.kind == "from"
    assert found.length == pytest.approx(1500)
    assert harness.crossover(rows, "none", "linear").kind == "only_below"


def test_failed_and_flagged_rows_do_not_count():
    rows = rows_of({"none": QUADRATIC, "linear": LINEAR})
    rows.loc[rows["row_id"] == "linear-4096-0", ["status", "latency_p50_seconds"]] = ["oom", None]
    places = rows.index[rows["row_id"].str.startswith("linear-2048")]
    for place in places:
        rows.at[place, "flags"] = ["throughput x latency is not what it should be"]
        rows.at[place, "latency_p50_seconds"] = 1e6
    assert harness.crossover(rows, "linear", "none").length == pytest.approx(1500)


def test_rows_that_leave_open_what_to_compare_are_refused():
    rows = rows_of({"none": QUADRATIC, "linear": LINEAR})
    with pytest.raises(ValueError, match="no comparable row of technique 'absent'"):
        harness.crossover(rows, "linear", "absent")
    with pytest.raises(ValueError, match=r"no number under 'workload\.prompt_tokens'"):
        harness.crossover(rows, "linear", "none", over="workload.prompt_tokens")
    with pytest.raises(ValueError, match="no column"):
        harness.crossover(rows, "linear", "none", metric="latency")
    other = rows_of({"none": QUADRATIC}, device_name="another box")
    other[["row_id", "trial_id"]] += "-other"
    with pytest.raises(ValueError, match="two rows"):
        harness.crossover(pd.concat([rows, other], ignore_index=True), "linear", "none")
    mixed = pd.concat([other, rows[rows["technique"] == "linear"]], ignore_index=True)
    with pytest.raises(ValueError, match="differ in more than the length: in device_name"):
        harness.crossover(mixed, "linear", "none")
    short = rows[rows["workload"] == "w[sequence_length=512]"]
    with pytest.raises(ValueError, match="at least two"):
        harness.crossover(short, "linear", "none")
