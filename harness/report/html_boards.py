"""The leaderboards: a table for each board, what was not measured, and its figures."""

from __future__ import annotations

from harness.report.boards import Board
from harness.report.cells import Cell, runs_of
from harness.report.columns import Column, columns_of, left_out
from harness.report.contents import Contents
from harness.report.entries import BASELINE, disqualifying
from harness.report.ink import Drawing
from harness.report.markup import Html, breakable, tag
from harness.report.speed_mark import reach_of, speed_mark
from harness.report.verdict import basis_of
from harness.report.wording import listing, missing

_NO_FIGURES = "No figures here: they are drawn for the boards with the most entries only."


def boards_section(contents: Contents) -> Html:
    """Every board that has a measured entry or a failed one."""
    stale = set(contents.stale["row_id"])
    found = [_board(board, contents.drawings.get(board.slug), stale) for board in contents.boards]
    return tag("section", tag("h2", "Leaderboards"), found, id="boards")


def _board(board: Board, figures: tuple[list[Drawing], list[str]] | None, stale: set[str]) -> Html:
    rest = board.title.removeprefix(board.workload).removeprefix(" \N{MIDDLE DOT} ")
    drawn, silent = figures if figures is not None else ([], [_NO_FIGURES])
    basis = basis_of(board) if len(board.ranked) else "No comparable baseline row, so nothing is ranked."
    return tag(
        "article",
        tag("h3", board.workload, " ", tag("span", rest)),
        tag("p", basis, class_="small"),
        _table(board, stale),
        _notes(board, silent),
        tag("div", [_figure(drawing) for drawing in drawn], class_="figures") if drawn else None,
        class_="board",
        id=board.slug,
        data_model=board.model,
        data_workload=board.workload,
        data_device=board.device_name,
    )


def _table(board: Board, stale: set[str]) -> Html:
    columns, reach = columns_of(board), reach_of(board.records)
    heads = [_head("Technique", "its label and how many runs stand behind it", "text"), *map(_column_head, columns)]
    rows = [_row(entry, columns, reach, stale) for entry in board.records]
    rows += [_failed(entry, len(columns)) for entry in board.entries.to_dict("records") if _has_failed(entry)]
    head = tag("thead", tag("tr", heads))
    caption = tag("caption", f"Leaderboard of {board.title}", class_="unseen")
    return tag(
        "div",
        tag("table", caption, head, tag("tbody", rows), class_="sortable"),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=board.title,
    )


def _head(text: str, meaning: str, kind: str) -> Html:
    button = tag("button", text, type="button", title=meaning)
    return tag("th", button, scope="col", class_=kind)


def _column_head(column: Column) -> Html:
    if column.kind != "estimated":
        return _head(column.heading, column.meaning, "number")
    button = tag("button", column.heading, type="button", title=column.meaning)
    return tag(
        "th",
        button,
        tag("small", "estimated by a model,", tag("br"), "not measured"),
        scope="col",
        class_="number estimated",
    )


def _row(entry: dict, columns: list[Column], reach: float, stale: set[str]) -> Html:
    cells = [_cell(column, entry, reach) for column in columns]
    name = "base" if entry["technique"] == BASELINE else "flagged" if not entry["ranked"] else ""
    return tag("tr", _name(entry, stale), cells, class_=name, data_technique=entry["label"], data_status="ok")


def _name(entry: dict, stale: set[str]) -> Html:
    badges = [tag("span", "baseline", class_="badge")] if entry["technique"] == BASELINE else []
    badges += [tag("span", "flagged", class_="badge error", title=flag) for flag in disqualifying(entry["flags"])]
    flags = [tag("small", flag, class_="flag") for flag in disqualifying(entry["flags"])]
    if entry["row_id"] in stale:
        badges.append(tag("span", "older software", class_="badge warn"))
    link = tag("a", breakable(entry["label"]), href=f"#row-{entry['row_id']}")
    return tag(
        "th",
        link,
        badges,
        tag("small", f"ok \N{MIDDLE DOT} {runs_of(entry)}"),
        flags,
        scope="row",
        data_v=entry["label"],
    )


def _cell(column: Column, entry: dict, reach: float) -> Html:
    cell: Cell = column.cell(entry)
    mark = speed_mark(entry, reach) if column.key == "speed" else None
    small = tag("small", cell.sub) if cell.sub else None
    kind = " ".join(
        filter(None, ["number", column.kind if column.kind == "estimated" else "", cell.tone, column.key[:5]])
    )
    value = None if missing(cell.value) else f"{cell.value:.7g}"
    main = tag("span", cell.main, class_="main")
    return tag("td", mark, main, small, class_=kind, title=cell.title, data_v=value)


def _has_failed(entry: dict) -> bool:
    return entry["status"] not in ("ok", "skipped")


def _failed(entry: dict, width: int) -> Html:
    link = tag("a", breakable(entry["label"]), href=f"#row-{entry['row_id']}")
    name = tag("th", link, tag("small", entry["status"]), scope="row", data_v=entry["label"])
    reason = tag(
        "td", tag("span", entry["status"], class_=f"badge {entry['status']}"), " ", entry["reason"] or "", colspan=width
    )
    return tag("tr", name, reason, class_="failed", data_technique=entry["label"], data_status=entry["status"])


def _notes(board: Board, silent: list[str]) -> Html:
    skipped = board.entries[board.entries["status"] == "skipped"]["label"].tolist()
    lines = (
        [f"Does not apply here: {listing(skipped, 20)}; the reasons stand below the leaderboards."] if skipped else []
    )
    lines += [f"No column here: {', '.join(left_out(board))}."] if left_out(board) else []
    lines += silent
    return tag("ul", [tag("li", line) for line in lines], class_="notes") if lines else Html("")


def _figure(drawing: Drawing) -> Html:
    caption = tag("figcaption", tag("a", "PNG", download=True, href=f"{drawing.name}.png"))
    return tag("figure", Html(drawing.svg), caption)
