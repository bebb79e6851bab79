"""The same command again: what is measured stays, what is stale is named, and a killed sweep loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.machine import environment
from harness.plan.resume import FAILED, plan, recover
from harness.plan.settings import Settings
from harness.rows.store import Results, read_rows, write_row
from harness.trial import Part, Trial

TOY = ["--config-dir=own", "device=cpu", "model=toy", "workload=toy", "meters=[latency]"]
TOY += ["protocol.minimum_seconds=0.02", "protocol.maximum_seconds=0.1"]
#: Sweeps killed at random moments.
KILLS = int(os.environ.get("HARNESS_TEST_KILLS", "20"))


def edit(path: Path, **values: Any) -> None:
    """Replace columns of a row on disk."""
    table = pq.read_table(path)
    for name, value in values.items():
        table = table.set_column(
            table.schema.get_field_index(name), name, pa.array([value], table.schema.field(name).type)
        )
    pq.write_table(table, path)


@pytest.fixture(scope="module")
def measured(new_sweep: Callable[[], Any]) -> Any:
    sweep = new_sweep().with_stranger().without_torch()
    done = sweep.run(*TOY, "technique=none,scale,raises,never_applies")
    assert done.returncode == 0, done.stderr
    return sweep


@pytest.fixture
def again(measured: Any, new_sweep: Callable[[], Any]) -> Any:
    """A copy of the measured results, to run in again."""
    sweep = new_sweep()
    sweep.environment = measured.environment
    shutil.copytree(measured.folder, sweep.folder, dirs_exist_ok=True)
    return sweep


def ids(sweep: Any) -> list[str]:
    return [row["row_id"] for row in sweep.rows()]


def test_the_same_command_runs_nothing(again: Any):
    before = ids(again)
    done = again.run(*TOY, "technique=none,scale,raises,never_applies")
    assert done.returncode == 0
    assert "nothing to run" in done.stderr
    assert "4 of 4 trials have a row already, 1 of them failed" in done.stderr
    assert ids(again) == before


def test_a_wider_command_runs_only_what_is_missing(again: Any):
    before = ids(again)
    done = again.run(*TOY, "technique=none,scale,idle")
    assert done.returncode == 0
    assert ids(again)[: len(before)] == before
    assert [row["technique"] for row in again.rows()[len(before) :]] == ["idle"]


def test_rows_of_other_versions_are_kept_named_and_measured_again_when_asked(again: Any):
    (old,) = [row for row in again.rows() if row["technique"] == "scale"]
    versions = json.loads(old["versions_json"]) | {"torch": "1.0.0"}
    edit(again.results / "rows" / f"{old['row_id']}.parquet", versions_json=json.dumps(versions))
    command = [*TOY, "technique=none,scale"]
    done = again.run(*command)
    assert (
        f"1 kept row(s) were measured with other software: torch 1.0.0 -> {environment.versions()['torch']}"
        in done.stderr
    )
    assert "run.rerun=stale" in done.stderr
    assert len(ids(again)) == 4
    assert again.run(*command, "run.rerun=stale").returncode == 0
    assert [row["technique"] for row in again.rows()].count("scale") == 2
    assert len(ids(again)) == 5
    assert "other software" not in again.run(*command).stderr


TECHNIQUE = Part("none", "x.Y")
STATUSES = ("ok", "skipped", *FAILED)


def trial(seed: int) -> Trial:
    return Trial(TECHNIQUE, (TECHNIQUE,), TECHNIQUE, TECHNIQUE, {}, (), "cpu", seed)


def put(results: Results, seed: int, status: str, stale: bool = False, **values: Any) -> None:
    found = trial(seed)
    row = {
        "row_id": f"{seed}-{status}-{stale}-{len(values)}",
        "trial_id": found.id,
        "status": status,
        "device_name": environment.device_name("cpu"),
        "versions_json": json.dumps({"torch": "1.0"} if stale else environment.versions()),
        "code_revision": environment.code_revision(),
        "started_at": "2020-01-01T00:00:00+00:00",
    }
    write_row(results, {**row, **values})


@pytest.mark.parametrize(
    ("rerun", "expected"),
    [
        ("missing", ["new"]),
        ("failed", ["new", "error", "crash", "timeout", "oom"]),
        ("stale", ["new", "old"]),
        ("all", ["new", "ok", "skipped", "error", "crash", "timeout", "oom", "old"]),
    ],
)
def test_rerun_chooses_by_the_newest_row(rerun: Any, expected: list[str], tmp_path: Path):
    results, kinds = Results(tmp_path), [*STATUSES, "old", "new"]
    for seed, kind in enumerate(kinds):
        if kind == "old":
            put(results, seed, "ok", stale=True)
        elif kind != "new":
            put(results, seed, kind)
    found = plan(results, [trial(seed) for seed in range(len(kinds))], Settings(rerun=rerun))
    assert sorted(kinds[item.seed] for item in found.run) == sorted(expected)
    assert found.measured == len(kinds) - len(expected)


def test_a_later_row_decides(tmp_path: Path):
    results = Results(tmp_path)
    put(results, 0, "error")
    put(results, 0, "ok", started_at="2021-01-01T00:00:00+00:00")
    put(results, 1, "ok")
    put(results, 1, "error", started_at="2021-01-01T00:00:00+00:00")
    found = plan(results, [trial(0), trial(1)], Settings(rerun="failed"))
    assert [item.seed for item in found.run] == [1]


def test_a_row_of_another_machine_does_not_count(tmp_path: Path):
    results = Results(tmp_path)
    put(results, 0, "ok", device_name="another processor")
    assert len(plan(results, [trial(0)], Settings()).run) == 1


def test_other_code_is_named_as_a_change(tmp_path: Path):
    results = Results(tmp_path)
    put(results, 0, "ok", code_revision="000000000000")
    put(results, 1, "ok", code_revision="000000000000")
    found = plan(results, [trial(0), trial(1)], Settings())
    assert found.stale == {f"harness code 000000000000 -> {environment.code_revision()}": 2}


def test_a_package_that_came_or_went_is_a_change(tmp_path: Path):
    results = Results(tmp_path)
    versions = environment.versions()
    del versions["torch"]
    put(results, 0, "ok", versions_json=json.dumps({**versions, "hqq-next": "1"}))
    (changes,) = [plan(results, [trial(0)], Settings()).stale]
    assert set(changes) == {f"torch absent -> {environment.versions()['torch']}", "hqq-next 1 -> absent"}


def test_a_finished_row_that_was_not_stored_is_stored(tmp_path: Path):
    results = Results(tmp_path)
    folder = results.logs / "20200101-abc"
    folder.mkdir(parents=True)
    (folder / "parent.json").write_text(json.dumps({"row_id": "r", "started_at": "2020-01-01T00:00:00"}))
    (folder / "row.json").write_text(json.dumps({"trial_id": "t", "status": "ok", "facts": {}}))
    assert recover(results) == 1
    assert [row["row_id"] for row in read_rows(results).table.to_pylist()] == ["r"]
    assert recover(results) == 0


@pytest.mark.parametrize("left", ["row.json", "parent.json"])
@pytest.mark.parametrize("content", ["", "{"])
def test_a_broken_file_of_a_killed_sweep_does_not_stop_the_next(left: str, content: str, tmp_path: Path):
    results = Results(tmp_path)
    folder = results.logs / "20200101-abc"
    folder.mkdir(parents=True)
    (folder / "parent.json").write_text(json.dumps({"row_id": "r", "started_at": "2020-01-01T00:00:00"}))
    (folder / "row.json").write_text(json.dumps({"trial_id": "t", "status": "ok"}))
    (folder / left).write_text(content)
    assert recover(results) == 0
    assert not (folder / "row.json").exists()


def test_the_answer_of_a_check_is_not_taken_for_a_row(tmp_path: Path):
    results = Results(tmp_path)
    (results.logs / "check").mkdir(parents=True)
    (results.logs / "check" / "row.json").write_text(json.dumps({"wrong": [None], "needs": [None]}))
    assert recover(results) == 0
    assert read_rows(results).table.num_rows == 0


def kill_at(sweep: Any, arguments: list[str], moment: float) -> bool:
    """Start, wait, SIGKILL the parent alone; whether it still ran."""
    process = sweep.start(*arguments)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
        return True
    _, error = process.communicate(timeout=20)
    assert process.returncode == 0, error
    return False


def test_a_sweep_killed_at_any_moment_loses_nothing_and_repeats_nothing(sweep: Any):
    sweep.with_stranger().without_torch()
    techniques = "none,scale,raises,out_of_host_memory,idle,never_applies"
    arguments = [*TOY, f"technique={techniques}", "run.repeats=25"]
    total, chance, killed, until = 6 * 25, random.Random(0), 0, time.monotonic() + 150
    finished: set[str] = set()
    while killed < KILLS and time.monotonic() < until:
        # Start-up takes about two seconds, so half of the moments fall into it and half among the trials.
        killed += kill_at(sweep, arguments, chance.uniform(0.3, 4.0))
        assert sweep.wait_for_no_process(20) == [], "a killed sweep leaves no process"
        now = {row["row_id"] for row in sweep.rows()}
        left = {path.parent.name for path in (sweep.results / "logs").glob("*-*/row.json")}
        assert finished <= now | left, "a row was lost"
        finished = now | left
        assert list((sweep.results / "rows").glob("*.corrupt")) == []
        for path in (sweep.results / "rows").glob("*.parquet"):
            assert pq.ParquetFile(path).metadata.num_rows == 1
        if len(now) == total:
            break
    done = sweep.run(*arguments)
    assert done.returncode == 0, done.stderr
    rows = sweep.rows()
    assert finished <= {row["row_id"] for row in rows}
    assert Counter(row["trial_id"] for row in rows).most_common(1)[0][1] == 1, "a trial was measured twice"
    assert len(rows) == total
    assert {row["status"] for row in rows} == {"ok", "error", "oom", "skipped"}, "a kill is never taken for a result"
    assert list((sweep.results / "logs").glob("*/row.json")) == []
    assert "nothing to run" in sweep.run(*arguments).stderr
    assert killed >= min(KILLS, 5)
