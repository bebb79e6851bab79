"""Rows on disk: whole or not at all, read back as they were, and the bad file named among good ones."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.rows.store import Results, locked, read_rows, write_row

NUMBERS = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**53), 2**53)
TEXTS = st.none() | st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
FACTS = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=3)
ROWS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["ok", "error", "skipped"]),
        "reason": TEXTS,
        "model": TEXTS,
        "seed": st.none() | st.integers(-(2**63), 2**63 - 1),
        "converged": st.none() | st.booleans(),
        "latency_p50_seconds": NUMBERS,
        "weights_bytes": NUMBERS,
        "step_seconds": st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=5),
        "flags": st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=9), max_size=2),
    },
    optional={"gpu_energy_joules": NUMBERS, "token_gap_seconds": st.lists(st.floats(), max_size=3)},
)


def row(name: str = "a", **values: Any) -> dict[str, Any]:
    return {
        "row_id": name,
        "trial_id": "t",
        "status": "ok",
        "started_at": "2020-01-01T00:00:00",
        "latency_p50_seconds": 0.5,
        **values,
    }


def same(before: Any, after: Any) -> bool:
    if isinstance(before, list):
        return len(before) == len(after) and all(map(same, before, after))
    if isinstance(before, float) and isinstance(after, float) and math.isnan(before):
        return math.isnan(after)
    return before == after and (before is None) == (after is None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_rows_come_back_as_they_were_written(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory):
    results = Results(tmp_path_factory.mktemp("store"))
    for number, item in enumerate(rows):
        write_row(results, {**item, "row_id": f"{number}"})
    read = read_rows(results)
    assert read.unreadable == []
    for before, after in zip(rows, read.table.to_pylist(), strict=True):
        assert [key for key, value in before.items() if not same(value, after[key])] == []
        absent = set(after) - set(before)
        assert all(after[key] is None for key in absent & {"gpu_energy_joules", "token_gap_seconds"})


@given(facts=FACTS, reasons=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_nested_facts_become_json_columns(
    facts: dict[str, Any], reasons: dict[str, str], tmp_path_factory: pytest.TempPathFactory
):
    import json

    results = Results(tmp_path_factory.mktemp("store"))
    write_row(results, row(facts=facts, reasons=reasons))
    (read,) = read_rows(results).table.to_pylist()
    assert json.loads(read["facts_json"]) == facts
    assert json.loads(read["reasons_json"]) == reasons


def test_a_column_of_nulls_joins_a_column_of_numbers(tmp_path: Path):
    results = Results(tmp_path)
    write_row(results, row("a", gpu_energy_joules=None))
    write_row(results, row("b", gpu_energy_joules=3))
    write_row(results, row("c"))
    table = read_rows(results).table
    assert table.schema.field("gpu_energy_joules").type == pa.float64()
    assert table.column("gpu_energy_joules").to_pylist() == [None, 3.0, None]


def test_writing_a_row_again_replaces_it(tmp_path: Path):
    results = Results(tmp_path)
    for value in (1.0, 2.0):
        write_row(results, row(latency_p50_seconds=value))
    assert [item["latency_p50_seconds"] for item in read_rows(results).table.to_pylist()] == [2.0]
    assert names(results.rows) == ["a.parquet"]


def test_an_empty_folder_has_no_rows(tmp_path: Path):
    assert read_rows(Results(tmp_path / "none")).table.num_rows == 0


FAILING = {
    "in the middle of the file": (pq, "write_table"),
    "at the flush": (os, "fsync"),
    "at the rename": (os, "replace"),
}


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get
)
@pytest.mark.parametrize("moment", FAILING)
def test_a_write_that_fails_leaves_no_file_and_one_line(
    moment: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results = Results(tmp_path)
    write_row(results, row("kept"))
    owner, name = FAILING[moment]
    real = getattr(owner, name)

    def fail(*arguments: Any, **named: Any) -> None:
        if name == "write_table":
            Path(arguments[1]).write_bytes(b"PAR1 and then the disk is full")
        raise OSError(code, os.strerror(code), str(results.rows))

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(UserError) as caught:
        write_row(results, row("lost"))
    monkeypatch.setattr(owner, name, real)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert names(results.rows) == ["kept.parquet"]


def test_a_full_disk_does_not_take_the_row_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    results = Results(tmp_path)
    write_row(results, row(latency_p50_seconds=1.0))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(UserError, match="no space"):
            write_row(results, row(latency_p50_seconds=2.0))
    assert [item["latency_p50_seconds"] for item in read_rows(results).table.to_pylist()] == [1.0]


@given(
    kind=st.sampled_from(["truncated", "empty", "random", "overwritten"]),
    seed=st.integers(0, 2**32),
    place=st.integers(0, 4),
)
def test_a_broken_file_is_set_aside_named_and_the_others_are_read(
    kind: str, seed: int, place: int, tmp_path_factory: pytest.TempPathFactory
):
    results, chance = Results(tmp_path_factory.mktemp("store")), random.Random(seed)
    for number in range(5):
        write_row(results, row(f"{number}", step_seconds=[float(i) for i in range(40)]))
    victim = results.rows / f"{place}.parquet"
    whole = victim.read_bytes()
    broken = {
        "truncated": whole[: chance.randrange(len(whole))],
        "empty": b"",
        "random": chance.randbytes(chance.randrange(1, 3000)),
        # the footer's length and the magic bytes at the end
        "overwritten": whole[:-8] + chance.randbytes(8),
    }[kind]
    victim.write_bytes(broken)
    read = read_rows(results)
    assert sorted(read.table.column("row_id").to_pylist()) == [f"{i}" for i in range(5) if i != place]
    (line,) = read.unreadable
    assert f"{place}.parquet.corrupt" in line
    assert "\n" not in line
    assert (results.rows / f"{place}.parquet.corrupt").read_bytes() == broken
    assert read_rows(results).unreadable == [], "it is named once"


@given(seed=st.integers(0, 2**32))
def test_bytes_that_rot_inside_a_file_never_stop_the_reader(seed: int, tmp_path_factory: pytest.TempPathFactory):
    results, chance = Results(tmp_path_factory.mktemp("store")), random.Random(seed)
    for number in range(2):
        write_row(results, row(f"{number}", model="m" * 50))
    victim = results.rows / "0.parquet"
    data = bytearray(victim.read_bytes())
    for _ in range(chance.randrange(1, 20)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    victim.write_bytes(bytes(data))
    read = read_rows(results)
    assert "1" in read.table.column("row_id").to_pylist()
    assert read.table.num_rows + len(read.unreadable) == 2


@pytest.mark.parametrize(
    "stranger",
    [{"unrelated": ["x"]}, {"row_id": [1.5]}, {"row_id": ["z"], "latency_p50_seconds": ["fast"]}],
    ids=["other columns", "another type", "a word for a number"],
)
def test_a_foreign_parquet_file_does_not_stop_the_reader(stranger: dict[str, list[Any]], tmp_path: Path):
    results = Results(tmp_path)
    write_row(results, row("good"))
    pq.write_table(pa.table(stranger), results.rows / "stranger.parquet")
    assert "good" in read_rows(results).table.column("row_id").to_pylist()


def test_only_the_columns_asked_for_are_read(tmp_path: Path):
    results = Results(tmp_path)
    write_row(results, row())
    table = read_rows(results, ["row_id", "no_such_column"]).table
    assert table.column_names == ["row_id"]


def _hold(folder: str, held: Any, release: Any) -> None:
    with locked(Results(Path(folder))):
        held.set()
        release.wait(30)


def test_a_second_sweep_into_the_same_folder_is_refused(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), held, release))
    other.start()
    assert held.wait(30)
    try:
        with pytest.raises(UserError, match="another sweep") as caught, locked(Results(tmp_path)):
            pass
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    finally:
        release.set()
        other.join(30)
    with locked(Results(tmp_path)):
        pass


def test_a_lock_dies_with_its_holder(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), held, release))
    other.start()
    assert held.wait(30)
    other.kill()
    other.join(30)
    with locked(Results(tmp_path)):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_one_line(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="not writable"), locked(Results(tmp_path / "results")):
        pass
