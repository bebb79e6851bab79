"""The figures of a board: memory against quality, energy against throughput, and what holds the memory."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from harness.report.boards import Board
from harness.report.entries import BASELINE
from harness.report.ink import BASE, FRONT, MUTED, OTHER, PAPER, Drawing, figure, finish, title
from harness.report.labels import place
from harness.report.memory_bars import memory_bars
from harness.report.metrics import ENERGY, ESTIMATE, MEMORY, QUALITY
from harness.report.pareto import front

ERROR = "quality_standard_error_bits_per_byte"
RATE = "throughput_tokens_per_second"
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_JOULES = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "\N{MICRO SIGN}J"))


def drawings_of(board: Board) -> tuple[list[Drawing], list[str]]:
    """Every figure that has data, and a line for each that has none."""
    drawn, silent = [], []
    for draw in (memory_against_quality, energy_against_throughput, memory_bars):
        found = draw(board)
        (silent if isinstance(found, str) else drawn).append(found)
    return drawn, silent


def where(board: Board) -> str:
    """The second line of a title; long names are cut, the page has them whole."""
    text = f"{board.workload}, {board.model}, {board.device_name}"
    return text if len(text) <= 70 else text[:69] + "\N{HORIZONTAL ELLIPSIS}"


def memory_against_quality(board: Board) -> Drawing | str:
    """Peak memory (x) against held-out loss (y) with its standard error; lower left is better."""
    table = board.measured.dropna(subset=[MEMORY, QUALITY])
    if len(table) < 2:
        return "No plot of memory against quality: fewer than two entries have both."
    unit, name = _unit(table[MEMORY].max(), _BYTES)
    with figure(5.2, 3.9) as (drawn, axes):
        xs, ys = (table[MEMORY] / unit).tolist(), table[QUALITY].tolist()
        axes.errorbar(xs, ys, yerr=table[ERROR].fillna(0), fmt="none", ecolor=OTHER, elinewidth=0.8, alpha=0.55)
        strong = _points(axes, table, xs, ys, front_step="post", x_lower=True)
        axes.set_xlabel(f"Peak memory of tensors [{name}]  \N{LEFTWARDS ARROW} less is better")
        axes.set_ylabel("Held-out loss [bits per byte]  \N{LEFTWARDS ARROW} less is better")
        title(axes, "Memory against quality", where(board))
        place(axes, list(zip(xs, ys, strict=True)), table["label"].tolist(), strong)
        alt = f"Peak memory against held-out loss of {len(table)} techniques: {where(board)}"
        return finish(drawn, f"memory-quality-{board.slug}", "memory against quality", alt)


def energy_against_throughput(board: Board) -> Drawing | str:
    """Throughput (x) against energy a token (y): by the GPU's counter, else the estimate, and the axis says which."""
    measured = board.measured[ENERGY].notna().any()
    metric = ENERGY if measured else ESTIMATE
    table = board.measured.dropna(subset=[RATE, metric])
    if len(table) < 2:
        return "No plot of energy against throughput: fewer than two entries have both."
    unit, name = _unit(table[metric].max(), _JOULES)
    with figure(5.2, 3.9) as (drawn, axes):
        xs, ys = table[RATE].tolist(), (table[metric] / unit).tolist()
        strong = _points(axes, table, xs, ys, front_step="pre", x_lower=False)
        axes.set_xlabel(f"Throughput [{board.token_kind} tokens/s]  more is better \N{RIGHTWARDS ARROW}")
        source = "GPU energy, by counter" if measured else "Energy, estimated"
        axes.set_ylabel(f"{source} [{name} per token]  \N{LEFTWARDS ARROW} less is better")
        title(axes, "Energy against throughput" + ("" if measured else " (estimated)"), where(board))
        place(axes, list(zip(xs, ys, strict=True)), table["label"].tolist(), strong)
        alt = f"Throughput against {source} of {len(table)} techniques: {where(board)}"
        return finish(drawn, f"energy-throughput-{board.slug}", "energy against throughput", alt)


def _points(axes: Axes, table: pd.DataFrame, xs: list, ys: list, front_step: str, x_lower: bool) -> list[bool]:
    """Points, front and legend; which points are strong. Flagged entries are crosses and never on the front."""
    able = [i for i, ranked in enumerate(table["ranked"]) if ranked]
    best = [able[i] for i in front([xs[i] for i in able], [ys[i] for i in able], x_lower=x_lower)]
    base = [technique == BASELINE for technique in table["technique"]]
    axes.step([xs[i] for i in best], [ys[i] for i in best], where=front_step, color=FRONT, linewidth=1.2, alpha=0.7)  # type: ignore[arg-type]
    kinds = [("x" if i not in able else "D" if base[i] else "o", i in best or base[i], base[i]) for i in range(len(xs))]
    for kind in sorted(set(kinds)):
        here = [i for i, other in enumerate(kinds) if other == kind]
        _scatter(axes, [xs[i] for i in here], [ys[i] for i in here], *kind)
    _legend(axes)
    axes.margins(0.12, 0.12)
    return [i in best or base[i] for i in range(len(xs))]


def _scatter(axes: Axes, xs: list, ys: list, marker: str, strong: bool, base: bool) -> None:
    colour = BASE if base else FRONT if strong else OTHER
    edge = {} if marker == "x" else {"edgecolors": PAPER, "linewidths": 0.8}
    axes.scatter(xs, ys, s=46 if strong else 26, color=colour, marker=marker, zorder=3, **edge)


def _legend(axes: Axes) -> None:
    shown = (
        ("o", FRONT, "on the front of point values"),
        ("D", BASE, "baseline"),
        ("o", OTHER, "others"),
        ("x", OTHER, "flagged"),
    )
    handles = [Line2D([], [], marker=m, color=c, linestyle="", markersize=5, label=text) for m, c, text in shown]
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(handles=handles, ncols=4, frameon=False, fontsize=8, loc="outside lower left", labelcolor=MUTED)  # type: ignore[union-attr]


def _unit(most: float, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    return next(((factor, name) for factor, name in units if most >= factor), units[-1])
