"""Two variants side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare import match, variants
from harness.errors import UserError
from harness.settings import Settings
from harness.store import Results, read_rows
from harness.sweep import order
from harness.trial import Part, Trial


def trial(technique: str, seed: int) -> Trial:
    part = Part("x", "module.X")
    return Trial(part, (Part(technique, f"module.{technique}"),), part, part, {}, (), "cpu", seed)


def row(block: int, index: int, status: str = "ok") -> dict[str, Any]:
    return {"status": status, "block": block, "order_index": index}


@pytest.mark.parametrize(
    "overrides", [["technique=none"], ["technique=a,b,c"], ["technique=a,b", "seed=1,2"], ["seed=1"]]
)
def test_anything_but_one_key_with_two_values_is_refused(overrides: list[str]):
    with pytest.raises(UserError, match="exactly one key with exactly two values"):
        variants(overrides)


def test_a_stack_is_one_value():
    first, second = variants(["technique=none,[nf4,lora]", "model=tiny_llama"])
    assert first == ["model=tiny_llama", "technique=none"]
    assert second == ["model=tiny_llama", "technique=[nf4,lora]"]


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_every_pair_runs_side_by_side_in_a_random_order(seed: int, pairs: int):
    trials = [trial(name, number) for name in ("a", "b") for number in range(pairs)]
    planned = order(trials, Settings(repeats=pairs, order_seed=seed))
    names = [item.techniques[0].name for _, item in planned]
    for pair in range(pairs):
        left, right = planned[2 * pair], planned[2 * pair + 1]
        assert left[0] == right[0] == pair
        assert left[1].seed == right[1].seed
        assert {left[1].techniques[0].name, right[1].techniques[0].name} == {"a", "b"}
    assert len(names) == 2 * pairs


def test_over_many_schedules_each_variant_comes_first_about_half_the_time():
    firsts = 0
    for seed in range(1000):
        planned = order([trial(name, 0) for name in ("a", "b")], Settings(order_seed=seed))
        firsts += planned[0][1].techniques[0].name == "a"
    assert 450 <= firsts <= 550


def test_pairs_whose_trials_did_not_run_one_after_the_other_are_left_out():
    first, second = [trial("a", number) for number in range(4)], [trial("b", number) for number in range(4)]
    rows = {
        first[0].id: row(0, 0), second[0].id: row(0, 1),  # a pair
        first[1].id: row(1, 2), second[1].id: row(1, 7),  # interrupted between
        first[2].id: row(2, 4), second[2].id: row(2, 5, "error"),
        first[3].id: row(3, 6),
    }  # fmt: skip
    matched, apart = match(rows, first, second)
    assert (len(matched), apart) == (1, 1)


def test_a_comparison_from_the_command_line(tmp_path: Path, quick: Callable[..., list[str]]):
    # Memory of a smaller cache is exact, so its verdict does not depend on how quiet the machine is.
    options = [*quick("prefill"), "technique=none,mqa", f"run.results={tmp_path}"]
    command = [sys.executable, "-m", "harness", "compare", "--pairs", "6", *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    memory = next(line for line in done.stdout.splitlines() if line.startswith("peak_allocated_bytes"))
    assert memory.endswith("n=6: A is larger")
    rows = read_rows(Results(tmp_path)).table.to_pylist()
    assert len(rows) == 12
    assert all(row["command"].startswith("harness compare --pairs 6 model=tiny_llama") for row in rows)


def test_a_blocked_order_is_refused(tmp_path: Path):
    from harness.compare import compare

    with pytest.raises(UserError, match="random order only"):
        compare(["technique=none,gqa", "model=tiny_llama", "run.order=given", f"run.results={tmp_path}"], 6, 0.02)
    assert not list(tmp_path.iterdir())
