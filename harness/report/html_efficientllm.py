"""EfficientLLM's six metrics as the paper defines them, with the column that says more beside two of them."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from harness.report.boards import Board
from harness.report.contents import Contents
from harness.report.efficientllm import six_metrics, why_null
from harness.report.markup import Html, tag
from harness.report.wording import DASH, amount, missing, number, ratio

_PAPER = "Yuan et al. 2025, arXiv 2505.13840, section 5.1"


def _plain(value: float) -> str:
    return number(value, 4)


def _joules(value: float) -> str:
    return amount(value, "_joules")


def _small(value: float) -> str:
    return f"{value:.2e}"


#: Column, abbreviation, unit, what it is, how it is written, and whether it is the paper's.
_COLUMNS: list[tuple[str, str, str, str, Callable[[float], str], bool]] = [
    ("amu_bytes", "AMU", "GB", "Eq. 1, mean memory in use, in 10^9 bytes", lambda v: number(v / 1e9), True),
    ("pcu_ratio", "PCU", "share", "Eq. 2, mean share of time the GPU was busy", lambda v: f"{v:.3f}", True),
    ("al_seconds", "AL", "s / step", "Eq. 3, mean time of a step; a request when generating", _plain, True),
    ("tt_tokens_per_parameter_per_second", "TT", "tokens / param / s", "Eq. 4, training throughput", _small, True),
    ("st_samples_per_parameter_per_second", "ST", "samples / param / s", "Eq. 5, training throughput", _small, True),
    ("it_tokens_per_second", "IT", "tokens / s", "Eq. 6, output tokens per second", _plain, True),
    ("aec_watts", "AEC", "W", "Eq. 8, mean power of the GPU; not energy despite the name", _plain, True),
    ("gpu_energy_per_token_joules", "Energy", "per token", "GPU energy of a token, by counter", _joules, False),
    ("mcr_ratio", "MCR", "nominal", "Eq. 9, size ratio by nominal bits, times quality kept", ratio, True),
    ("mcr_stored_ratio", "MCR", "stored bytes", "Eq. 9 with the bytes really stored", ratio, False),
]


def efficientllm_section(contents: Contents) -> Html:
    """A table for each board, folded."""
    measured = [board for board in contents.boards if len(board.measured)]
    parts = [_board(board, board is measured[0]) for board in measured]
    about = tag(
        "p",
        f"The six metrics by the paper's own equations ({_PAPER}), so that its tables can be set beside these. "
        "Shaded columns are not in the paper: they say what AEC (mean power) and MCR (nominal bits) leave out. "
        "Quality here is a loss, so performance in Eq. 9 is 1 / bits per byte. "
        "AMU is of GPU tensors on a GPU; on a CPU it is the whole process in host memory, libraries included.",
        class_="small",
    )
    return tag("section", tag("h2", "EfficientLLM's six metrics"), about, parts, id="efficientllm")


def _board(board: Board, unfolded: bool) -> Html:
    table = six_metrics(board.measured)
    heads = [tag("th", tag("button", "Technique", type="button"), scope="col", class_="text")]
    heads += [_head(short, unit, meaning, paper) for _, short, unit, meaning, _, paper in _COLUMNS]
    rows = [_row(entry, table.loc[index]) for index, entry in zip(board.measured.index, board.records, strict=True)]
    sources = ", ".join(sorted(set(table["amu_source"])))
    inner = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="sortable")
    summary = tag(
        "summary",
        tag("b", board.workload),
        " ",
        board.title.removeprefix(board.workload),
        tag("small", f" AMU of: {sources}"),
    )
    return tag(
        "details",
        summary,
        tag("div", inner, class_="scroll"),
        open=unfolded,
        class_="board",
        data_model=board.model,
        data_workload=board.workload,
        data_device=board.device_name,
    )


def _head(short: str, unit: str, meaning: str, paper: bool) -> Html:
    return tag(
        "th",
        tag("button", short, type="button", title=meaning),
        tag("small", unit),
        scope="col",
        class_="number" if paper else "number ours",
    )


def _row(entry: dict, values: pd.Series) -> Html:
    cells = [_cell(entry, name, values[name], write, paper) for name, _, _, _, write, paper in _COLUMNS]
    name = tag("th", entry["label"], scope="row", data_v=entry["label"])
    return tag("tr", name, cells, data_technique=entry["label"], data_status="ok")


def _cell(entry: dict, name: str, value: float, write: Callable[[float], str], paper: bool) -> Html:
    kind = "number" if paper else "number ours"
    if missing(value):
        return tag("td", DASH, class_=kind, title=why_null(name, entry))
    return tag("td", write(value), class_=kind, data_v=f"{value:.7g}")
