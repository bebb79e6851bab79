"""Names beside points, placed so that they cover neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation

from harness.report.ink import INK, LINE, MUTED, PAPER

#: Left, bottom, right, top in pixels.
Box = tuple[float, float, float, float]

#: Where a label may go, from the best: offset in points and how the text is aligned to it.
_NEAR = [(7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top")]
_FAR = [
    (dx, dy, "left" if dx > 0 else "right", "bottom" if dy > 0 else "top")
    for reach in (8, 18, 30, 44, 60)
    for dx in (reach, -reach)
    for dy in (reach * 0.7, -reach * 0.7, reach * 1.6, -reach * 1.6)
]
_SHARE = {"left": 0.0, "center": 0.5, "right": 1.0, "bottom": 0.0, "top": 1.0}
_LINE = {"arrowstyle": "-", "color": LINE, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3}

#: More names than this are a thicket: the rest stay nameless, the table beside has them.
MOST = 24


def place(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], strong: Sequence[bool]) -> None:
    """Annotate `points` (data coordinates) with `texts`; strong ones are set first and in ink.

    Call it last: it fixes the layout, because names must not move the axes, and laying out again costs a draw.
    """
    figure = axes.get_figure()
    assert figure is not None
    canvas = FigureCanvasAgg(figure)  # type: ignore[arg-type]
    figure.draw_without_rendering()  # type: ignore[union-attr]
    figure.set_layout_engine("none")  # type: ignore[union-attr]
    renderer, dots = canvas.get_renderer(), figure.dpi / 72
    spots = [(float(x), float(y)) for x, y in (axes.transData.transform(point) for point in points)]
    taken = [(x - 6.0, y - 6.0, x + 6.0, y + 6.0) for x, y in spots]
    left, bottom, right, top = axes.get_window_extent(renderer).extents
    frame = (float(left), float(bottom), float(right), float(top))
    for index in sorted(range(len(points)), key=lambda i: not strong[i])[:MOST]:
        note = _note(axes, points[index], texts[index], strong[index])
        size = note.get_window_extent(renderer)
        others = taken[:index] + taken[index + 1 :]
        choice, box = _settle(spots[index], (size.width, size.height), dots, others, frame)
        _move(note, axes, choice)
        taken.append(box)


def _note(axes: Axes, point: tuple[float, float], text: str, strong: bool) -> Annotation:
    shown = text if len(text) <= 34 else text[:33] + "\N{HORIZONTAL ELLIPSIS}"
    # A label is a name as it was typed: `$` in it opens no formula.
    return axes.annotate(
        shown,
        point,
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=9,
        color=INK if strong else MUTED,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.8},
        zorder=4,
        parse_math=False,
    )


def _move(note: Annotation, axes: Axes, choice: tuple[float, float, str, str]) -> None:
    dx, dy, across, along = choice
    note.set_position((dx, dy))
    note.set(ha=across, va=along)
    if abs(dx) + abs(dy) > 20:
        line = axes.annotate("", note.xy, xytext=(dx, dy), textcoords="offset points", arrowprops=_LINE)
        line.set_zorder(2)


def _settle(
    spot: Sequence[float], size: tuple[float, float], dots: float, others: list[Box], frame: Box
) -> tuple[tuple[float, float, str, str], Box]:
    """The first candidate that covers nothing, else the one that covers least; all in pixels."""
    best: tuple[float, tuple[float, float, str, str], Box] | None = None
    for rank, candidate in enumerate([*_NEAR, *_FAR]):
        box = _box(spot, size, candidate, dots)
        covered = sum(_overlap(box, other) for other in others) + 4 * _outside(box, frame)
        if best is None or covered + rank * 0.4 < best[0]:
            best = (covered + rank * 0.4, candidate, box)
        if covered < 0.5:
            break
    assert best is not None
    return best[1], best[2]


def _box(
    spot: Sequence[float], size: tuple[float, float], candidate: tuple[float, float, str, str], dots: float
) -> Box:
    dx, dy, across, along = candidate
    left = spot[0] + dx * dots - size[0] * _SHARE[across]
    bottom = spot[1] + dy * dots - size[1] * _SHARE[along]
    return (left - 1, bottom - 1, left + size[0] + 1, bottom + size[1] + 1)


def _overlap(a: Box, b: Box) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0])
    along = min(a[3], b[3]) - max(a[1], b[1])
    return across * along if across > 0 and along > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    beyond = max(0.0, frame[0] - box[0]) + max(0.0, box[2] - frame[2])
    return (beyond + max(0.0, frame[1] - box[1]) + max(0.0, box[3] - frame[3])) * 10
