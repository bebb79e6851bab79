"""One configuration against itself: what must be called different seldom, and what would have been found."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from harness.cli import main
from harness.commands import aa
from harness.commands.aa import detectable, most_different, outcome, plan
from harness.errors import UserError
from harness.rows.store import Results, read_rows

TOY = ["device=cpu", "model=toy", "workload=toy", "meters=[latency]"]
TOY += ["protocol.minimum_seconds=0.02", "protocol.maximum_seconds=0.1"]
STRANGER = f"--config-dir={Path(__file__).parents[1] / 'stranger'}"


def side(latency: float, index: int, status: str = "ok") -> dict[str, Any]:
    return {"status": status, "latency_p50_seconds": latency, "order_index": index, "trial_seconds": 2.0}


def rows_of(ratios: list[float]) -> list[Any]:
    return [(side(ratio, 2 * index), side(1.0, 2 * index + 1)) for index, ratio in enumerate(ratios)]


def noise(count: int, deviation: float, seed: int = 1, factor: float = 1.0) -> list[float]:
    generator = random.Random(seed)
    return [factor * math.exp(generator.gauss(0, deviation)) for _ in range(count)]


def judge_all(ratios: list[float], pairs: int = 6) -> aa.Outcome:
    return outcome(rows_of(ratios), pairs, "x", "y")


@pytest.mark.parametrize(("comparisons", "expected"), [(400, 27), (1, 0), (20, 3), (0, 0)])
def test_the_bound_is_the_exact_binomials(comparisons: int, expected: int):
    assert most_different(comparisons) == expected


@given(st.integers(1, 300))
@examples(max_examples=20)
def test_the_bound_is_the_least_that_an_honest_test_keeps_in_95_percent_of_runs(comparisons: int):
    def within(most: int) -> float:
        return sum(math.comb(comparisons, k) * 0.05**k * 0.95 ** (comparisons - k) for k in range(most + 1))

    bound = most_different(comparisons)
    assert within(bound) >= 0.95 - 1e-12
    assert bound == 0 or within(bound - 1) < 0.95 + 1e-12


@pytest.mark.parametrize("pairs", [6, 20])
def test_an_honest_judge_passes(pairs: int):
    found = judge_all(noise(400 * pairs, 0.02), pairs)
    assert (found.comparisons, found.left_out, found.different_allowed) == (400, 0, 27)
    assert found.passed
    assert found.different <= found.interval_excludes_one <= 34
    assert found.log_ratio_deviation == pytest.approx(0.02, rel=0.05)
    assert found.trials_seconds == 400 * pairs * 2 * 2.0


def test_a_machine_whose_second_trial_of_a_pair_is_slower_is_caught_where_the_order_is_not_random():
    assert not judge_all(noise(400 * 6, 0.01, factor=1.02)).passed


def test_drift_that_is_shared_by_both_trials_of_a_pair_passes_in_random_orders():
    # Every trial is half a percent slower than the one before it: all of A and then all of B would differ by 3%.
    generator = random.Random(5)
    ratios = [1.005 ** generator.choice((1, -1)) * ratio for ratio in noise(400 * 6, 0.005)]
    assert judge_all(ratios).passed


@pytest.mark.parametrize("spoilt", ["absent", "failed"])
def test_a_comparison_with_a_pair_missing_is_left_out_and_counted(spoilt: str):
    rows = rows_of(noise(60, 0.01))
    rows[13] = None if spoilt == "absent" else (rows[13][0], side(1.0, 27, "crash"))
    found = outcome(rows, 6, "x", "y")
    assert (found.comparisons, found.left_out) == (9, 1)
    assert "1 comparison(s) left out" in aa.show(found)


def test_nothing_measured_passes_nothing_and_knows_nothing():
    found = outcome([None] * 12, 6, "x", "y")
    assert not found.passed
    assert found.detectable_computed_ratio is found.log_ratio_deviation is found.log_ratio_quartiles is None
    assert "no comparison has all its rows" in aa.show(found)


@pytest.mark.parametrize("pairs", [6, 10, 20])
def test_the_detectable_slow_down_is_found_in_80_percent_of_new_comparisons(pairs: int):
    needed = detectable([noise(pairs, 0.01, seed) for seed in range(150)])
    assert needed is not None
    fresh = [noise(pairs, 0.01, seed, 1 + needed) for seed in range(1000, 1300)]
    found = sum(aa.judge(each, 0.0).differs for each in fresh)
    assert 0.7 * 300 <= found <= 0.9 * 300


def test_with_fewer_than_six_pairs_nothing_is_detectable():
    assert detectable([noise(5, 0.01, seed) for seed in range(50)]) is None
    assert "find no difference" in aa.show(judge_all(noise(50, 0.01), 5))


def test_pairs_are_consecutive_repeats_of_one_configuration():
    pairs, settings = plan(["model=tiny_llama", "seed=7"], 5)
    assert [(a.seed, b.seed) for a, b in pairs] == [(7 + 2 * i, 8 + 2 * i) for i in range(5)]
    assert len({trial.config_id for pair in pairs for trial in pair}) == 1
    assert settings.results == "results/aa"
    assert plan(["model=tiny_llama", "run.results=x"], 1)[1].results == "x"


@pytest.mark.parametrize("override", ["technique=none,gqa", "run.repeats=3", "seed=range(0,4)"])
def test_more_than_one_configuration_is_refused(override: str):
    with pytest.raises(UserError):
        plan([override], 2)


@pytest.mark.parametrize("options", [["--pairs", "1"], ["--comparisons", "0"], ["technique=nun"]])
def test_bad_input_is_one_line_and_exit_code_2(options: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["aa", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_from_the_command_line_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(aa, "BATCH_PAIRS", 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = ["aa", "--pairs", "2", STRANGER, *TOY, f"run.results={tmp_path}"]
    assert main([*command, "--comparisons", "1"]) == 0
    assert "A/A test of toy, none, toy on" in capsys.readouterr().out
    # A larger test keeps what the smaller one measured.
    assert main([*command, "--comparisons", "3", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["comparisons"], found["pairs"], found["left_out"]) == (3, 2, 0)
    assert "2 of 6 pairs are measured already" in said.err
    assert re.search(r"3 of 4 pairs in \d+\.\d min; about \d+\.\d min left", said.err)
    rows = read_rows(Results(tmp_path)).table.to_pylist()
    assert len({row["trial_id"] for row in rows}) == len(rows) == 12
    assert {row["sweep"] for row in rows} == {"aa"}


@pytest.mark.parametrize("command", ["aa", "compare"])
def test_an_interrupt_says_how_to_go_on(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.commands.compare.run_sweep", stop)
    key = "technique=none" if command == "aa" else "technique=none,gqa"
    assert main([command, "model=tiny_llama", key, f"run.results={tmp_path}"]) == 130
    assert "give the same command to go on" in capsys.readouterr().err
