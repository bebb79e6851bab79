"""`harness report` on folders: empty, good, half broken, large."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import UserError
from harness.report.write import write_report


def test_no_rows_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no rows in .*; measure some with `harness run sweep=quickstart`"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_the_report_is_written_whole(folder, row, failed):
    place = folder([row(), row("a", latency_p50_seconds=0.05), failed("b", "oom", "out of memory")])
    paths = write_report(place)
    names = {path.name for path in paths}
    assert {"LEADERBOARD.md", "index.html"} < names
    assert all(path.stat().st_size for path in paths)
    assert {path.name for path in (place / "report").iterdir()} == names


def test_figures_of_boards_that_are_gone_are_removed(folder, row):
    place = folder([row(), row("a")])
    (place / "report").mkdir()
    old = place / "report" / "memory-quality-gone.png"
    own = place / "report" / "my-notes.png"
    for path in (old, own):
        path.write_bytes(b"x")
    write_report(place)
    assert not old.exists()
    assert own.exists()


def test_unreadable_files_are_named(folder, row, capsys):
    place = folder([row(), row("a")])
    (place / "rows" / "bad.parquet").write_bytes(b"not parquet")
    write_report(place)
    assert "bad.parquet" in capsys.readouterr().err
    for name in ("index.html", "LEADERBOARD.md"):
        assert "bad.parquet" in (place / "report" / name).read_text().replace("\\", "")


def test_only_unreadable_files_is_a_user_error(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="1 unreadable"):
        write_report(tmp_path)


def test_only_failures_still_make_a_report(folder, failed):
    paths = write_report(folder([failed("a"), failed("b", "skipped", "no")]))
    assert {path.name for path in paths} == {"LEADERBOARD.md", "index.html"}


def test_a_disk_that_refuses_is_one_line(folder, row):
    place = folder([row()])
    (place / "report").write_text("in the way")
    with pytest.raises(UserError, match="results folder"):
        write_report(place)


def test_ten_thousand_rows(tmp_path, row, frame):
    from harness.rows.store import flatten, schema_of

    flats = [
        flatten(row("none" if t == 0 else f"t{t}", seed=s, model=f"m{m}", latency_p50_seconds=0.1 / (1 + t) + s * 1e-4))
        for m in range(100)
        for t in range(20)
        for s in range(5)
    ]
    (tmp_path / "rows").mkdir()
    # One compacted file: ten thousand small ones would only measure the disk.
    pq.write_table(pa.Table.from_pylist(flats, schema=schema_of(flats[0])), tmp_path / "rows" / "all.parquet")
    started = time.process_time()  # of this process: other load on the machine must not fail it
    write_report(tmp_path)
    assert time.process_time() - started < 40
    assert (tmp_path / "report" / "index.html").stat().st_size < 25e6
