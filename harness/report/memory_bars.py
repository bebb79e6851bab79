"""A bar for each technique: what holds the bytes at the peak of a step."""

from __future__ import annotations

import pandas as pd

from harness.report.boards import Board
from harness.report.ink import CAUSES, INK, MUTED, Drawing, figure, finish, title
from harness.report.metrics import MEMORY
from harness.report.wording import amount

#: The parts of a step's peak at the moment of the peak, and what a row without them tells: counts after the step.
_PARTS = {
    "weights": "peak_weights_bytes",
    "gradients": "peak_gradient_bytes",
    "optimizer": "peak_optimizer_state_bytes",
    "kv cache": "peak_kv_cache_bytes",
    "activations": "peak_activation_bytes",
    "workspace": "peak_workspace_bytes",
}
_AFTER_STEP = {
    "weights": "weights_bytes",
    "gradients": "gradient_bytes",
    "optimizer": "optimizer_state_bytes",
    "kv cache": "kv_cache_bytes",
}
_COLOURS = {**CAUSES, "activations": "#cc79a7", "workspace": "#d55e00", "rest": CAUSES["rest"]}
_LEGEND = {"kv cache": "KV cache", "rest": "rest, up to the peak"}
MOST_BARS = 24


def causes_of(entries: pd.DataFrame) -> pd.DataFrame:
    """Bytes by cause, and `rest`: what the peak holds beyond them, never below zero.

    A row whose peak was not taken apart shows what was counted after a step; its rest holds activations and
    temporaries, and a cache that is dropped before the peak can make the causes exceed it.
    """
    found = pd.DataFrame({cause: entries[column] for cause, column in _PARTS.items()})
    after = pd.DataFrame({cause: entries[column] for cause, column in _AFTER_STEP.items()})
    whole = found.notna().all(axis=1)
    found = found.where(whole, after.reindex(columns=found.columns)).fillna(0.0)
    found["rest"] = (entries[MEMORY] - found.sum(axis=1)).clip(lower=0)
    return found


def memory_bars(board: Board) -> Drawing | str:
    """Stacked bars, the least peak on top; names and totals at the ends."""
    table = board.measured.dropna(subset=[MEMORY]).sort_values(MEMORY).head(MOST_BARS)
    if not len(table):
        return "No plot of memory by cause: no entry has a peak."
    causes = causes_of(table)
    unit, name = next(((f, n) for f, n in ((1e9, "GB"), (1e6, "MB")) if table[MEMORY].max() >= f), (1e3, "kB"))
    with figure(5.2, max(3.9, 1.5 + 0.27 * len(table))) as (drawn, axes):
        left, places = [0.0] * len(table), list(range(len(table)))
        for cause in causes:
            widths = (causes[cause] / unit).tolist()
            if any(widths):
                axes.barh(
                    places, widths, left=left, height=0.66, color=_COLOURS[cause], label=_LEGEND.get(cause, cause)
                )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for place, (end, peak) in enumerate(zip(left, table[MEMORY], strict=True)):
            axes.annotate(
                amount(peak, MEMORY),
                (end, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
        axes.set_yticks(places, [_name(label) for label in table["label"]], color=INK, parse_math=False)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlim(0, max(left) * 1.16)
        axes.set_xlabel(f"Bytes by cause, up to the peak of a step [{name}]")
        title(axes, "What holds the memory", f"{board.workload}, {board.model}, {board.device_name}"[:70])
        drawn.legend(ncols=4, frameon=False, fontsize=8, loc="outside lower left", labelcolor=MUTED)
        alt = f"Memory by cause of {len(table)} techniques: {board.title}"
        return finish(drawn, f"memory-causes-{board.slug}", "what holds the memory", alt)


def _name(label: str) -> str:
    return label if len(label) <= 30 else label[:29] + "\N{HORIZONTAL ELLIPSIS}"
