"""LEADERBOARD.md: the verdict and the tables in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.report.against import ABOUT, HEADINGS, summary_of
from harness.report.boards import Board
from harness.report.cells import Cell
from harness.report.columns import columns_of, left_out
from harness.report.contents import Contents
from harness.report.entries import disqualifying
from harness.report.machine import Machine
from harness.report.quality import RULE
from harness.report.verdict import Verdict, keeps_phrase
from harness.report.wording import plural

#: GitHub shows no file above half a megabyte, and nobody reads one.
MOST_TABLES = 12


def markdown_of(contents: Contents) -> str:
    """The whole file. GitHub shows no hover text, so reasons stand in lists."""
    blocks = ["# Leaderboard", *_notices(contents), *(_machine(machine) for machine in contents.machines)]
    blocks += [
        "## What to use",
        *(_verdict(verdict) for verdict in contents.verdicts),
        f"_{RULE[0].upper()}{RULE[1:]}._",
    ]
    for board in contents.boards[:MOST_TABLES]:
        blocks += _board(board, contents)
    if len(contents.boards) > MOST_TABLES:
        blocks.append(f"{plural(len(contents.boards) - MOST_TABLES, 'further board')}: see `index.html`.")
    blocks += _against(contents)
    blocks += ["## What did not run", _reasons(contents), _NOTES]
    return "\n\n".join(block for block in blocks if block) + "\n"


def plain(text: str) -> str:
    """Text that Markdown and its HTML leave as it is, on one line."""
    one = " ".join(str(text).split())
    for character in "\\`*_[]|~#$":
        one = one.replace(character, "\\" + character)
    return one.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", ":\u200b//")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table; cells are escaped already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _notices(contents: Contents) -> list[str]:
    lines = [f"> **Unreadable:** {plain(line)}" for line in contents.unreadable]
    lines += [f"> **Older software:** {plain(line)}" for line in contents.stale_lines]
    return lines + [f"> **Not quiet:** {plain(line)}" for line in contents.unquiet_lines]


def _machine(machine: Machine) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in machine.statuses.items())
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    dates = (
        machine.first[:10]
        if machine.first[:10] == machine.last[:10]
        else f"{machine.first[:10]} to {machine.last[:10]}"
    )
    facts = "".join(f", {plain(fact)}" for fact in machine.facts)
    return f"**{plain(machine.name)}**{facts}. Rows: {counts}; measured {dates}.  \n{plain(versions)}"


def _verdict(verdict: Verdict) -> str:
    lines = [f"**{plain(verdict.board.title)}** ({plain(verdict.basis)})"]
    for found in verdict.findings:
        answer = f"**{plain(found.answer)}, {found.figure} {found.unit}**. " if found.answer else ""
        about = (
            found.question if found.question == "Best quality" else f"{found.question}, {keeps_phrase(verdict.board)}"
        )
        lines.append(f"- {about}: {answer}{plain(found.detail)}")
    return "\n".join(lines)


def _board(board: Board, contents: Contents) -> list[str]:
    if not len(board.measured):
        return []
    columns = columns_of(board)
    headings = [
        "Technique",
        "Runs",
        *(f"{c.heading} (not measured)" if c.kind == "estimated" else c.heading for c in columns),
    ]
    rows = [
        [_label(entry), str(entry["runs"]), *(_cell(column.cell(entry)) for column in columns)]
        for entry in board.records
    ]
    drawn, _ = contents.drawings.get(board.slug, ([], []))
    figures = ", ".join(f"[{figure.what}]({figure.name}.png)" for figure in drawn)
    empty = ", ".join(map(plain, left_out(board)))
    return [
        f"## {plain(board.title)}",
        table(headings, rows),
        f"No column here: {empty}." if empty else "",
        f"Figures: {figures}" if figures else "",
    ]


def _against(contents: Contents) -> list[str]:
    if contents.against is None:
        return []
    rows = [[plain(cell) for cell in item.cells] for item in contents.agreements]
    flips = [f"- {plain(item.title)}: {plain(line)}" for item in contents.agreements for line in item.flipped]
    return [
        f"## Against {plain(contents.against)}",
        plain(summary_of(contents.agreements, contents.against)),
        table(HEADINGS, rows) if rows else "",
        "\n".join(["Claims that flipped:", "", *flips]) if flips else "",
        f"_{plain(ABOUT)}_",
    ]


def _label(entry: dict) -> str:
    marks = "".join(f" (flagged: {plain(flag)})" for flag in disqualifying(entry["flags"]))
    return plain(entry["label"]) + marks


def _cell(cell: Cell) -> str:
    return plain(cell.main) + (f" ({plain(cell.sub)})" if cell.sub else "")


def _reasons(contents: Contents) -> str:
    if not len(contents.reasons):
        return "Everything that was asked for ran."
    rows = [
        [
            plain(r["technique"]),
            plain(r["model"]),
            plain(", ".join(r["workloads"])),
            r["status"],
            plain(r["reason"])[:300],
        ]
        for r in contents.reasons.to_dict("records")
    ]
    listed = table(["Technique", "Model", "Workloads", "Status", "Reason"], rows[:60])
    more = f"\n\n{plural(len(rows) - 60, 'further reason')} on the page." if len(rows) > 60 else ""
    return listed + more


_NOTES = (
    "Speed is the baseline's median step time over the technique's; figures in brackets are ratios to the baseline, "
    "95% intervals where two runs or more stand behind them, and for step time the spread within a run, which is no "
    "interval. A rank is a range where the runs cannot tell entries apart; of boards without any true difference at "
    "most one in twenty shows one (Holm's method over all pairs). Flagged rows are shown and never ranked. "
    "The page `index.html` beside this file has every row, its configuration and the command that measures it again."
)
