"""How figures look, and their two forms: a PNG file, and SVG that takes its colours and type from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Okabe and Ito's palette, which stays apart for colour-blind readers. Weights ... rest, in stacking order.
CAUSES = {
    "weights": "#0072b2",
    "gradients": "#56b4e9",
    "optimizer": "#e69f00",
    "kv cache": "#009e73",
    "rest": "#b9b4aa",
}
FRONT, BASE, OTHER = "#0072b3", "#d55e00", "#8d8a83"

#: Written into the SVG as colours that no figure uses otherwise, then replaced by the page's own.
INK, MUTED, LINE, PAPER = "#1c1b1a", "#6b675e", "#d9d5cb", "#fefefd"
_PAGE = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)", FRONT: "var(--front)"}


@dataclass(frozen=True)
class Drawing:
    """A finished figure: `what` it shows, `svg` for the page, `png` for a file, `alt` for those who cannot see it."""

    name: str
    what: str
    alt: str
    svg: str
    png: bytes


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure in inches and its axes, in the report's style; nothing of matplotlib's global state is left changed."""
    with matplotlib.rc_context({"font.size": 9.5, "svg.fonttype": "none", "axes.edgecolor": LINE, "text.color": INK}):
        drawn = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        axes = drawn.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=MUTED, which="both", labelcolor=MUTED, color=LINE)
        axes.xaxis.label.set_color(MUTED)
        axes.yaxis.label.set_color(MUTED)
        axes.grid(True, color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        yield drawn, axes


def title(axes: Axes, what: str, where: str) -> None:
    """Two lines flush with the axes: what is shown, and for which machine, model and workload."""
    axes.set_title(f"{what}\n", loc="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.text(0, 1.025, where, transform=axes.transAxes, fontsize=8, color=MUTED)


def finish(drawn: Figure, name: str, what: str, alt: str) -> Drawing:
    """Both forms of a figure; call it inside `figure`'s block, because the style counts while saving too."""
    png, svg = io.BytesIO(), io.BytesIO()
    drawn.savefig(png, format="png", dpi=170, facecolor="white")
    drawn.set_layout_engine("none")  # it is laid out; the second saving would do it again
    with matplotlib.rc_context({"svg.hashsalt": name}):
        drawn.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return Drawing(name, what, alt, adopted(svg.getvalue().decode(), alt), png.getvalue())


def adopted(svg: str, alt: str) -> str:
    """Matplotlib's SVG without its header, names of other sites and fonts, in the page's colours."""
    from html import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", body).replace("xlink:href", "href")
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would style the whole page
    body = re.sub(r'(<g) id="[^"]*"', r"\1", body)  # the same in every figure
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    for colour, variable in _PAGE.items():
        body = body.replace(colour, variable)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    return body.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
