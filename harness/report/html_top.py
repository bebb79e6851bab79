"""The top of the page: the machine, what to know before reading, and what to use."""

from __future__ import annotations

from datetime import datetime

from harness.report.contents import Contents
from harness.report.findings import Finding
from harness.report.machine import Machine
from harness.report.markup import Html, join, tag
from harness.report.quality import RULE
from harness.report.verdict import Verdict, keeps_phrase
from harness.report.wording import plural

#: Further verdicts are folded away: a page that opens with forty cards answers nothing.
MOST_CARDS = 9
_STATUSES = ("ok", "skipped", "oom", "error", "timeout", "crash")


def heading(contents: Contents) -> Html:
    """Title and machines."""
    return join(tag("h1", "Efficiency leaderboard"), [_machine(machine) for machine in contents.machines])


def notices(contents: Contents) -> Html:
    """Unreadable files, older software, and a machine that was not quiet; nothing where there is none of it."""
    parts = []
    if contents.unreadable:
        lines = [tag("li", line) for line in contents.unreadable]
        parts.append(tag("div", tag("strong", "Some files could not be read"), tag("ul", lines), class_="notice bad"))
    if contents.stale_lines:
        lines = [tag("li", line) for line in contents.stale_lines]
        text = "Rows differ in software. Older rows are marked; run.rerun=stale measures them again."
        parts.append(tag("div", tag("strong", text), tag("ul", lines), class_="notice"))
    parts += [tag("div", tag("strong", "Not quiet. "), line, class_="notice") for line in contents.unquiet_lines]
    return join(*parts)


def verdicts_section(contents: Contents) -> Html:
    """A card for each board."""
    cards = [_card(verdict) for verdict in contents.verdicts]
    rest = cards[MOST_CARDS:]
    more = tag("details", tag("summary", f"{len(rest)} more"), tag("div", rest, class_="cards")) if rest else None
    rule = tag("p", f"{RULE[0].upper()}{RULE[1:]}.", class_="small")
    return tag(
        "section", tag("h2", "What to use"), tag("div", cards[:MOST_CARDS], class_="cards"), more, rule, id="use"
    )


def filters(contents: Contents) -> Html:
    """One text field and a choice for each name that rows differ in."""
    choices = [
        _choice(name, sorted(set(contents.rows[name].dropna().astype(str))))
        for name in ("model", "workload", "device_name", "status")
    ]
    words = tag(
        "input",
        type="search",
        id="words",
        placeholder="Filter: technique, model\N{HORIZONTAL ELLIPSIS}",
        aria_label="Filter by text",
    )
    clear = tag("button", "Clear", type="button", id="clear")
    return join(words, choices, clear, tag("span", "", id="shown", role="status"))


def _machine(machine: Machine) -> Html:
    counts = [
        tag("span", tag("b", count), f" {status}", class_=f"chip {status}")
        for status, count in sorted(machine.statuses.items(), key=lambda item: _place(item[0]))
    ]
    total = tag("span", tag("b", sum(machine.statuses.values())), " rows", class_="chip")
    versions = [tag("span", name, " ", tag("b", version)) for name, version in machine.versions.items()]
    return tag(
        "div",
        tag("p", tag("strong", machine.name), [tag("span", fact) for fact in machine.facts], class_="facts"),
        tag("p", total, counts, tag("span", period(machine.first, machine.last), class_="when")),
        tag("p", versions, class_="versions"),
        class_="machine",
    )


def period(first: str, last: str) -> str:
    """`23 Nov 2026, 12:57 to 13:00 UTC`; the text as it stands where it is no ISO date."""
    try:
        start, end = datetime.fromisoformat(first), datetime.fromisoformat(last)
    except ValueError:
        return f"{first} to {last}"
    zone = f" {start:%Z}" if start.tzinfo else ""
    if start.date() == end.date():
        return f"{start.day} {start:%b %Y, %H:%M} to {end:%H:%M}{zone}"
    return f"{start.day} {start:%b %Y} to {end.day} {end:%b %Y}"


def _place(status: str) -> int:
    return _STATUSES.index(status) if status in _STATUSES else len(_STATUSES)


def _choice(name: str, values: list[str]) -> Html | None:
    if len(values) < 2:
        return None
    word = name.removesuffix("_name")
    options = [tag("option", f"all {plural(2, word)[2:] if word != 'status' else 'statuses'}", value="")]
    options[0] = Html(options[0].replace("<option>", '<option value="">'))
    return tag(
        "select",
        options,
        [tag("option", value, value=value) for value in values],
        id=f"by-{word}",
        aria_label=f"Filter by {word}",
    )


def _card(verdict: Verdict) -> Html:
    board = verdict.board
    rest = board.title.removeprefix(board.workload).removeprefix(" \N{MIDDLE DOT} ")
    lines = [_finding(found, keeps_phrase(board)) for found in verdict.findings]
    return tag(
        "article",
        tag("h3", tag("a", board.workload, href=f"#{board.slug}"), " ", tag("span", rest)),
        tag("dl", lines) if lines else None,
        tag("p", verdict.basis, class_="small"),
        class_="card",
        data_model=board.model,
        data_workload=board.workload,
        data_device=board.device_name,
    )


def _finding(found: Finding, condition: str) -> Html:
    about = tag("dt", found.question, tag("span", "" if found.question == "Best quality" else f" {condition}"))
    if not found.answer:
        return join(about, tag("dd", tag("b", "the baseline"), tag("p", found.detail), class_="none"))
    figure = tag("span", found.figure, tag("small", found.unit), class_="figure")
    return join(about, tag("dd", figure, tag("b", found.answer), tag("p", found.detail)))
