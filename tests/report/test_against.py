"""Two results folders: the agreement of their rankings, and claims that the other one contradicts."""

from __future__ import annotations

import pytest

from harness.errors import UserError
from harness.report.against import agreements_of, summary_of
from harness.report.write import write_report
from harness.rows.store import Results, write_row

TIMES = {"none": 0.1, "a": 0.05, "b": 0.08, "c": 0.2}


def rows_of(row, times, **changes):
    return [
        row(name, seed=seed, latency_p50_seconds=value * (1 + 0.01 * seed), **changes)
        for name, value in times.items()
        for seed in range(3)
    ]


def test_a_sweep_agrees_with_its_like(contents, row):
    boards = contents(rows_of(row, TIMES)).boards
    (found,) = agreements_of(boards, contents(rows_of(row, {k: v * 1.3 for k, v in TIMES.items()})).boards)
    assert (found.entries, found.tau_of_times, found.tau_of_ranks) == (4, 1.0, 1.0)
    assert (found.claims, found.flipped) == (6, [])


def test_a_claim_that_turns_round_is_named(contents, row):
    boards = contents(rows_of(row, TIMES)).boards
    turned = {**TIMES, "b": 0.04}  # b now before a: one of six pairs
    (found,) = agreements_of(boards, contents(rows_of(row, turned)).boards)
    assert found.tau_of_times == pytest.approx((5 - 1) / 6)
    assert found.flipped == ["step time of a over b: 0.62\u00d7 here, 1.25\u00d7 there"]
    assert "5 of 6 claims kept: 83.3%" in summary_of([found], "old")


def test_what_the_runs_cannot_tell_is_no_claim(contents, row):
    close = {"none": 0.1, "a": 0.1001}
    one_run = [row(name, latency_p50_seconds=value) for name, value in close.items()]
    (found,) = agreements_of(contents(one_run).boards, contents(one_run).boards)
    assert (found.claims, found.tau_of_times, found.tau_of_ranks) == (0, 1.0, None)
    assert found.cells[-1] == "no claim"


def test_memory_is_claimed_too_and_lost_where_the_other_folder_sees_none(contents, row):
    lean = [row(seed=s) for s in range(3)] + [row("a", seed=s, peak_allocated_bytes=5e7) for s in range(3)]
    plain = [row(seed=s) for s in range(3)] + [row("a", seed=s) for s in range(3)]
    (found,) = agreements_of(contents(lean).boards, contents(plain).boards)
    assert found.claims == 1
    assert "peak memory" in found.flipped[0]


def test_entries_and_boards_of_one_folder_only_are_left_out(contents, row, failed):
    here = contents([*rows_of(row, TIMES), *rows_of(row, TIMES, model="other")]).boards
    there = contents([*rows_of(row, {"none": 0.1, "a": 0.05}), *[failed("b", seed=s) for s in range(3)]]).boards
    (found,) = agreements_of(here, there)
    assert (found.entries, found.claims) == (2, 1)
    assert agreements_of(here, contents(rows_of(row, TIMES, workload="decode")).boards) == []
    assert "nothing can be compared" in summary_of([], "old")


def test_the_section_is_in_both_files(folder, tmp_path, row):
    place, other = folder(rows_of(row, TIMES)), tmp_path / "<other>"
    for one in rows_of(row, {**TIMES, "b": 0.04}):
        write_row(Results(other), one)
    write_report(place, other)
    page = (place / "report" / "index.html").read_text()
    markdown = (place / "report" / "LEADERBOARD.md").read_text()
    for text in (page, markdown):
        assert "step time of a over b" in text
        assert "5 of 6 claims kept" in text
        assert "<other>" not in text
    write_report(place)
    assert "Claims that flipped" not in (place / "report" / "index.html").read_text()


def test_a_folder_without_rows_or_itself_is_one_line(folder, tmp_path, row):
    place = folder(rows_of(row, TIMES))
    with pytest.raises(UserError, match="no rows in"):
        write_report(place, tmp_path / "empty")
    with pytest.raises(UserError, match="is the folder itself"):
        write_report(place, place)
