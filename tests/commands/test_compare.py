"""Two variants side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness.commands.compare
from harness.commands.compare import judged, match, measure_pairs, schedule, variants
from harness.errors import UserError
from harness.machine.environment import device_name
from harness.plan.settings import Settings
from harness.plan.sweep import order
from harness.rows.store import Results, read_rows, write_row
from harness.trial import Part, Trial

PART = device_name("cpu")


def trial(technique: str, seed: int) -> Trial:
    part = Part("x", "module.X")
    return Trial(part, (Part(technique, f"module.{technique}"),), part, part, {}, (), "cpu", seed)


def pairs_of(count: int) -> list[tuple[Trial, Trial]]:
    return [(trial("a", number), trial("b", number)) for number in range(count)]


def row(of: Trial, index: int, sweep: str = "compare", status: str = "ok", **more: Any) -> dict[str, Any]:
    return {
        "trial_id": of.id, "status": status, "order_index": index, "sweep": sweep, "device_name": PART, **more
    }  # fmt: skip


@pytest.mark.parametrize(
    "overrides", [["technique=none"], ["technique=a,b,c"], ["technique=a,b", "seed=1,2"], ["seed=1"]]
)
def test_anything_but_one_key_with_two_values_is_refused(overrides: list[str]):
    with pytest.raises(UserError, match="exactly one key with exactly two values"):
        variants(overrides)


def test_what_hydra_cannot_read_is_one_line():
    with pytest.raises(UserError) as caught:
        variants(["technique=a,b", "workload=[decode"])
    assert "\n" not in str(caught.value)


def test_a_stack_is_one_value():
    first, second = variants(["technique=none,[nf4,lora]", "model=tiny_llama"])
    assert first == ["model=tiny_llama", "technique=none"]
    assert second == ["model=tiny_llama", "technique=[nf4,lora]"]


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 500))
def test_every_pair_runs_side_by_side_and_the_sweep_keeps_that_order(seed: int, pairs: int, done: int):
    planned = pairs_of(done + pairs)[done:]
    wanted = schedule(planned, seed)
    ran = order(wanted, Settings(order="given", rerun="all"))
    assert [item for _, item in ran] == wanted
    for index, (a, b) in enumerate(planned):
        assert {wanted[2 * index].id, wanted[2 * index + 1].id} == {a.id, b.id}


def test_of_a_thousand_schedules_none_is_blocked_and_half_of_the_pairs_start_with_each_variant():
    firsts, schedules = 0, set()
    for seed in range(1000):
        names = "".join(item.techniques[0].name for item in schedule(pairs_of(6), seed))
        assert sorted(names[::2] + names[1::2]) == ["a"] * 6 + ["b"] * 6
        assert names not in ("a" * 6 + "b" * 6, "b" * 6 + "a" * 6)
        firsts += names[::2].count("a")
        schedules.add(names)
    # Four standard errors of 6000 fair coins; and all 64 sequences of six orders occur.
    assert abs(firsts - 3000) < 4 * 6000**0.5 / 2
    assert len(schedules) == 64


def test_blocks_of_a_thousand_randomized_sweeps_hold_each_variant_once_in_a_random_order():
    firsts = 0
    for seed in range(1000):
        planned = order([trial(name, number) for name in "ab" for number in range(6)], Settings(order_seed=seed))
        names = [item.techniques[0].name for _, item in planned]
        blocks = [set(names[2 * block : 2 * block + 2]) for block in range(6)]
        assert blocks == [{"a", "b"}] * 6
        assert [block for block, _ in planned] == [block for block in range(6) for _ in "ab"]
        firsts += names[::2].count("a")
    assert abs(firsts - 3000) < 4 * 6000**0.5 / 2


def test_a_sweep_that_goes_on_does_not_repeat_the_orders_of_its_beginning():
    whole = [item.techniques[0].name for item in schedule(pairs_of(64), 0)][::2]
    rest = [item.techniques[0].name for item in schedule(pairs_of(128)[64:], 0)][::2]
    assert whole != rest


def test_only_rows_that_one_comparison_measured_one_after_the_other_are_a_pair():
    pairs = pairs_of(7)
    (a0, b0), (a1, b1), (a2, b2), (a3, b3), (a4, b4), (a5, _), (a6, b6) = pairs
    rows = [
        row(b0, 0), row(a0, 1),  # a pair, B first
        row(a1, 2), row(trial("c", 0), 3), row(b1, 4),  # another between them
        row(a2, 5, sweep="quickstart"), row(b2, 6, sweep="quickstart"),  # of a sweep that may be blocked
        row(a3, 7), row(b3, 0),  # the sweep was interrupted between them
        row(a4, 1), row(b4, 2, status="error"),
        row(a5, 3),  # half a pair
        {**row(a6, 4), "device_name": "another part"}, row(b6, 5),
    ]  # fmt: skip
    found = match(rows, pairs, "compare")
    assert [both is not None for both in found] == [True, False, False, False, True, False, False]
    assert found[0] is not None
    assert [side["trial_id"] for side in found[0]] == [a0.id, b0.id]
    assert len(harness.commands.compare.whole(found)) == 1


def test_a_pair_with_an_invalid_row_is_left_out_and_other_flags_are_not():
    pairs = pairs_of(3)
    flags: list[list[str] | None] = [["invalid: thermal slowdown"], ["weights_bytes is 0"], None]
    rows = [
        row(item, 2 * i + j, flags=flags[i] if j else []) for i, pair in enumerate(pairs) for j, item in enumerate(pair)
    ]
    assert [both[0]["trial_id"] for both in harness.commands.compare.whole(match(rows, pairs, "compare"))] == [
        pairs[1][0].id,
        pairs[2][0].id,
    ]


def test_a_later_comparison_with_the_same_baseline_leaves_the_first_ones_pairs_whole():
    (a, b), c = pairs_of(1)[0], trial("c", 0)
    rows = [row(a, 0, mark=1), row(b, 1, mark=1), row(c, 0, mark=2), row(a, 1, mark=2)]
    (both,) = match(rows, [(a, b)], "compare")
    assert both is not None
    assert [side["mark"] for side in both] == [1, 1]
    assert match(rows, [(a, c)], "compare")[0] == (rows[3], rows[2])


class Fake:
    """Stands in for a sweep: writes rows, and is interrupted after so many trials."""

    def __init__(self, folder: Path) -> None:
        self.results, self.clock, self.left, self.ran = Results(folder), 0, 10**9, []

    def __call__(self, trials: Sequence[Trial], settings: Settings, name: str = "") -> list[dict[str, Any]]:
        rows = []
        for index, (block, item) in enumerate(order(trials, settings)):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.clock += 1
            rows.append(
                {
                    **row(item, index, name),
                    "row_id": f"{self.clock:06}", "started_at": f"{self.clock:06}", "block": block,
                    "trial_seconds": 1.0, "versions_json": "{}", "code_revision": "x",
                    "latency_p50_seconds": 1.0 + 0.1 * (item.techniques[0].name == "b"),
                }
            )  # fmt: skip
            write_row(self.results, rows[-1])
            self.ran.append(item.id)
        return rows


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(tmp_path)
    monkeypatch.setattr(harness.commands.compare, "run_sweep", made)
    return made


@pytest.mark.parametrize("interrupted_after", range(1, 12))
@pytest.mark.parametrize("batch", [None, 2])
def test_an_interrupted_comparison_goes_on_and_every_pair_is_whole(
    fake: Fake, tmp_path: Path, interrupted_after: int, batch: int | None
):
    pairs, settings = pairs_of(6), Settings(results=str(tmp_path))
    fake.left = interrupted_after
    with pytest.raises(KeyboardInterrupt):
        measure_pairs(pairs, settings, "compare", batch)
    fake.left = 10**9
    found = measure_pairs(pairs, settings, "compare", batch)
    assert all(found)
    # What was whole is not measured again, and half a pair is measured anew as a pair.
    assert len(fake.ran) == 12 + interrupted_after % 2
    assert measure_pairs(pairs, settings, "compare", batch) == found
    assert len(fake.ran) == 12 + interrupted_after % 2


@pytest.mark.parametrize(("rerun", "expected"), [("missing", 0), ("failed", 4), ("stale", 4), ("all", 12)])
def test_rerun_measures_whole_pairs_again(fake: Fake, tmp_path: Path, rerun: Any, expected: int):
    pairs = pairs_of(6)
    measure_pairs(pairs, Settings(results=str(tmp_path)), "compare")
    fake.ran.clear()
    rows = read_rows(Results(tmp_path)).table.to_pylist()
    write_row(Results(tmp_path), {**rows[0], "status": "crash", "code_revision": "old"})
    write_row(Results(tmp_path), {**rows[7], "flags": ["invalid: another process"], "code_revision": "old"})
    with pytest.MonkeyPatch.context() as patch:
        harness.commands.compare._changes.cache_clear()
        patch.setattr(
            harness.commands.compare, "changes_since", lambda row: ["older"] if row["code_revision"] == "old" else []
        )
        measure_pairs(pairs, Settings(results=str(tmp_path), rerun=rerun), "compare")
    harness.commands.compare._changes.cache_clear()
    assert len(fake.ran) == expected
    both = {frozenset(item.id for item in pair) for pair in pairs}
    assert {frozenset(ids) for ids in zip(fake.ran[::2], fake.ran[1::2], strict=True)} <= both


def test_columns_of_one_comparison_are_judged_together():
    clear = [0.8, 0.81, 0.79, 0.8, 0.82, 0.8]
    rows = [
        (
            row(a, 2 * index, latency_p50_seconds=ratio, peak_allocated_bytes=90.0, quality_bits_per_byte=None),
            row(b, 2 * index + 1, latency_p50_seconds=1.0, peak_allocated_bytes=100.0, quality_bits_per_byte=None),
        )
        for index, ((a, b), ratio) in enumerate(zip(pairs_of(6), clear, strict=True))
    ]
    latency, memory = judged(rows, 0.02)
    assert latency.verdict.p_value == memory.verdict.p_value == 2 / 64
    assert latency.verdict.adjusted_p_value == 4 / 64
    assert latency.verdict.text == "ambiguous: fewer than 7 pairs"
    text = harness.commands.compare.show(*pairs_of(1)[0], [latency, memory], failed=1)
    assert "p 0.031, among 2 columns 0.062" in text
    assert "1 pair(s) left out" in text


def run_compare(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "harness", "compare", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)


def test_a_comparison_from_the_command_line(tmp_path: Path, quick: Callable[..., list[str]]):
    # Memory of a smaller cache is exact, so its verdict does not depend on how quiet the machine is.
    options = [*quick("prefill"), "technique=none,mqa", f"run.results={tmp_path}"]
    done = run_compare("--pairs", "7", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    memory = next(line for line in done.stdout.splitlines() if line.startswith("peak_allocated_bytes"))
    assert memory.endswith("n=7: A is larger")
    rows = read_rows(Results(tmp_path)).table.to_pylist()
    assert len(rows) == 14
    assert all(row["command"].startswith("harness compare --pairs 7 model=tiny_llama") for row in rows)


def test_a_comparison_of_a_users_own_options(sweep: Any):
    sweep.with_stranger()
    options = ["--config-dir=own", "device=cpu", "model=toy", "workload=toy", "technique=idle,raises"]
    options += ["meters=[latency]", "protocol.minimum_seconds=0.02", "run.results=r"]
    done = run_compare("--pairs", "2", *options, folder=sweep.folder)
    assert done.returncode == 0, done.stderr
    assert "no pair has two measured rows" in done.stdout
    missing = run_compare("--config-dir=absent", "technique=none,gqa", folder=sweep.folder)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_a_blocked_order_is_refused(tmp_path: Path):
    from harness.commands.compare import compare

    with pytest.raises(UserError, match="random order only"):
        compare(["technique=none,gqa", "model=tiny_llama", "run.order=given", f"run.results={tmp_path}"], 6, 0.02)
    assert not list(tmp_path.iterdir())
