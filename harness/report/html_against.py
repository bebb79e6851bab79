"""The page's section on another results folder."""

from __future__ import annotations

from harness.report.against import ABOUT, HEADINGS, summary_of
from harness.report.contents import Contents
from harness.report.markup import Html, tag


def against_section(contents: Contents) -> Html:
    """A row for each board that both folders hold, and every claim that flipped; nothing without another folder."""
    if contents.against is None:
        return Html("")
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in HEADINGS]))
    rows = [
        tag("tr", tag("th", item.cells[0], scope="row"), [tag("td", cell, class_="number") for cell in item.cells[1:]])
        for item in contents.agreements
    ]
    table = tag("div", tag("table", head, tag("tbody", rows)), class_="scroll") if rows else None
    flips = [tag("li", f"{item.title}: {line}") for item in contents.agreements for line in item.flipped]
    return tag(
        "section",
        tag("h2", f"Against {contents.against}"),
        tag("p", summary_of(contents.agreements, contents.against)),
        table,
        [tag("h3", "Claims that flipped"), tag("ul", flips, class_="notes")] if flips else None,
        tag("p", ABOUT, class_="small"),
        id="against",
    )
