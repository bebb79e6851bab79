"""What works: each technique on each workload, and every reason in words."""

from __future__ import annotations

import pandas as pd

from harness.report.contents import Contents
from harness.report.markup import Html, breakable, join, tag
from harness.report.wording import listing

_MARKS = {
    "ok": "works",
    "skipped": "n/a",
    "error": "error",
    "oom": "out of memory",
    "crash": "crash",
    "timeout": "time-out",
}


def matrix_section(contents: Contents) -> Html:
    """A matrix for each machine and model."""
    groups = contents.matrix.groupby(["device_name", "model"], sort=True)
    several = contents.matrix["device_name"].nunique() > 1
    parts = [_matrix(str(device), str(model), cells, several) for (device, model), cells in groups]
    return tag(
        "section",
        tag("h2", "What works"),
        tag("div", tag("div", parts), tag("div", _reasons(contents.reasons)), class_="matrices"),
        id="works",
    )


def _matrix(device: str, model: str, cells: pd.DataFrame, several: bool) -> Html:
    workloads = sorted(set(cells["workload"]))
    found = {(cell["technique"], cell["workload"]): cell for cell in cells.to_dict("records")}
    heads = [tag("th", "Technique", scope="col"), *(tag("th", workload, scope="col") for workload in workloads)]
    rows = [
        tag(
            "tr",
            tag("th", breakable(name), scope="row"),
            [_cell(found.get((name, workload))) for workload in workloads],
            data_technique=name,
        )
        for name in sorted(set(cells["technique"]), key=lambda name: (name != "none", name))
    ]
    table = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="matrix")
    title = tag("h3", model, tag("span", f" {device}" if several else ""))
    return tag(
        "article", title, tag("div", table, class_="scroll"), class_="board", data_model=model, data_device=device
    )


def _cell(cell: dict | None) -> Html:
    if cell is None:
        return tag("td", tag("span", "not run", class_="unseen"), title="not in any sweep so far")
    status = cell["status"]
    link = tag("a", _MARKS.get(status, status), href=f"#row-{cell['row_id']}")
    several = tag("small", cell["counts"]) if "," in cell["counts"] else None
    return tag("td", link, several, class_=f"cell {status}", title=cell["reason"] or cell["counts"])


def _reasons(reasons: pd.DataFrame) -> Html:
    failed = reasons[reasons["status"] != "skipped"]
    skipped = reasons[reasons["status"] == "skipped"]
    return join(
        _list("Failures and their reasons", failed, True), _list("Why some do not apply", skipped, len(skipped) <= 12)
    )


def _list(title: str, reasons: pd.DataFrame, unfolded: bool) -> Html | None:
    if not len(reasons):
        return None
    several = reasons["device_name"].nunique() > 1
    lines = [_line(reason, several) for reason in reasons.to_dict("records")]
    return tag("details", tag("summary", f"{title} ({len(lines)})"), tag("ul", lines, class_="reasons"), open=unfolded)


def _line(reason: dict, several: bool) -> Html:
    first = reason["rows"][0]
    names = [listing(reason["workloads"]), reason["model"], *([reason["device_name"]] if several else [])]
    where = " \N{MIDDLE DOT} ".join(names)
    badge = tag("span", reason["status"], class_=f"badge {reason['status']}")
    link = tag("a", reason["technique"], href=f"#row-{first}")
    return tag("li", badge, " ", tag("b", link), " ", tag("small", where), tag("p", reason["reason"]))
