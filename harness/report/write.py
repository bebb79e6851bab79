"""`harness report`: rows in, a folder of readable files out."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.errors import UserError
from harness.report.against import agreements_of
from harness.report.contents import Contents, contents_of
from harness.report.frame import frame_of
from harness.report.markdown import markdown_of
from harness.report.page_html import page_of
from harness.report.plots import drawings_of
from harness.rows.store import Results, disk_message, read_rows

#: A figure takes a third of a second; beyond this many boards the page links none rather than keep its reader waiting.
MOST_BOARDS_WITH_FIGURES = 9


def write_report(results_folder: Path, against: Path | None = None) -> list[Path]:
    """Write report/LEADERBOARD.md, report/index.html and the figures; return their paths.

    `against` is another results folder whose rankings are compared with these. UserError when a folder holds no
    readable row, or when the disk refuses.
    """
    results = Results(results_folder)
    contents = with_figures(_contents(results))
    if against is not None:
        if against.resolve() == results_folder.resolve():
            raise UserError(f"--against {str(against)!r} is the folder itself; name the folder of another sweep")
        found = agreements_of(contents.boards, _contents(Results(against)).boards)
        contents = replace(contents, against=str(against), agreements=found)
    try:
        return _write_all(results.report, contents)
    except OSError as error:
        raise UserError(disk_message(error, results.root)) from error


def _contents(results: Results) -> Contents:
    found = read_rows(results)
    for line in found.unreadable:
        print(f"harness: {line}", file=sys.stderr)
    if not found.table.num_rows:
        aside = f" ({len(found.unreadable)} unreadable)" if found.unreadable else ""
        raise UserError(f"no rows in {str(results.rows)!r}{aside}; measure some with `harness run sweep=quickstart`")
    return contents_of(frame_of(found.table), found.unreadable)


def with_figures(contents: Contents) -> Contents:
    """Contents with the figures of the boards that have the most entries."""
    most = sorted(contents.boards, key=lambda board: -len(board.measured))[:MOST_BOARDS_WITH_FIGURES]
    return replace(contents, drawings={board.slug: drawings_of(board) for board in most})


def _write_all(folder: Path, contents: Contents) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    figures = [drawing for drawn, _ in contents.drawings.values() for drawing in drawn]
    _remove_old_figures(folder, {f"{drawing.name}.png" for drawing in figures})
    written = [
        _write(folder / "LEADERBOARD.md", markdown_of(contents).encode()),
        _write(folder / "index.html", page_of(contents).encode()),
    ]
    return written + [_write(folder / f"{drawing.name}.png", drawing.png) for drawing in figures]


def _remove_old_figures(folder: Path, wanted: set[str]) -> None:
    """A figure of a board that is gone would look like a current one."""
    for prefix in ("memory-quality-", "energy-throughput-", "memory-causes-"):
        for path in folder.glob(f"{prefix}*.png"):
            if path.name not in wanted:
                path.unlink()


def _write(path: Path, data: bytes) -> Path:
    """Beside its place and then renamed, so that a reader finds all of it or the file before."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise
    return path
