"""A machine that others used is named where the numbers are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.report.html_top import notices
from harness.report.markdown import markdown_of
from harness.report.quiet import unquiet_lines


def busy(share: float) -> dict[str, Any]:
    return {"facts": {"quiet": f"not quiet: others took {share:.0%}"}, "others_busy_ratio": share}


def test_quiet_rows_say_nothing(row: Callable[..., Any], frame: Callable[..., Any]):
    assert unquiet_lines(frame([row("none"), row("lora")])) == []


def test_the_worst_row_is_named_and_all_are_counted(row: Callable[..., Any], frame: Callable[..., Any]):
    rows = [row("none"), row("lora", **busy(0.2)), row("gqa", **busy(0.6))]
    (line,) = unquiet_lines(frame(rows))
    assert line.startswith("2 of 3 rows")
    assert "gqa" in line
    assert "60%" in line


def test_page_and_markdown_both_say_so(row: Callable[..., Any], contents: Callable[..., Any]):
    found = contents([row("none"), row("gqa", **busy(0.6))])
    assert "Not quiet" in str(notices(found))
    assert "Not quiet" in markdown_of(found)
