"""Names beside points, placed so that they cover neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from harness.report.ink import INK, LINE, MUTED, PAPER

#: Where a label may go, from the best: offset in points and how the text is aligned to it.
_NEAR = [(7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top")]
_FAR = [
    (dx, dy, "left" if dx > 0 else "right", "bottom" if dy > 0 else "top")
    for reach in (8, 18, 30, 44, 60)
    for dx in (reach, -reach)
    for dy in (reach * 0.7, -reach * 0.7, reach * 1.6, -reach * 1.6)
]


def place(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], strong: Sequence[bool]) -> None:
    """Annotate `points` (data coordinates) with `texts`; strong ones are set first and in ink."""
    figure = axes.get_figure()
    assert figure is not None
    canvas = FigureCanvasAgg(figure)  # type: ignore[arg-type]
    canvas.draw()
    renderer = canvas.get_renderer()
    spots = [axes.transData.transform(point) for point in points]
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    for index in sorted(range(len(points)), key=lambda i: not strong[i]):
        note = _note(axes, points[index], texts[index], strong[index])
        others = taken[:index] + taken[index + 1 :]
        box = _settle(note, renderer, others, axes.get_window_extent(renderer))
        taken.append(box)
    for note in axes.texts:
        note.set_in_layout(False)


def _note(axes: Axes, point: tuple[float, float], text: str, strong: bool) -> Annotation:
    shown = text if len(text) <= 34 else text[:33] + "\N{HORIZONTAL ELLIPSIS}"
    line = {"arrowstyle": "-", "color": LINE, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3}
    # A label is a name as it was typed: `$` in it opens no formula.
    return axes.annotate(
        shown,
        point,
        xytext=(7, 0),
        textcoords="offset points",
        fontsize=9,
        color=INK if strong else MUTED,
        arrowprops=line,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.8},
        zorder=4,
        parse_math=False,
    )


def _settle(note: Annotation, renderer: object, others: list[Bbox], frame: Bbox) -> Bbox:
    best: tuple[float, tuple, Bbox] | None = None
    for place_, candidate in enumerate([*_NEAR, *_FAR]):
        box = _move(note, candidate, renderer)
        cost = sum(_overlap(box, other) for other in others) + 4 * _outside(box, frame) + place_ * 0.4
        if best is None or cost < best[0]:
            best = (cost, candidate, box)
        if cost < place_ * 0.4 + 0.5:
            break
    assert best is not None
    _move(note, best[1], renderer)
    return best[2]


def _move(note: Annotation, candidate: tuple[float, float, str, str], renderer: object) -> Bbox:
    dx, dy, across, along = candidate
    note.set_position((dx, dy))
    note.set(ha=across, va=along)
    note.update_positions(renderer)  # type: ignore[arg-type]
    from matplotlib.text import Text

    box = Text.get_window_extent(note, renderer)  # type: ignore[arg-type]
    return Bbox.from_extents(box.x0 - 1, box.y0 - 1, box.x1 + 1, box.y1 + 1)


def _overlap(a: Bbox, b: Bbox) -> float:
    across = min(a.x1, b.x1) - max(a.x0, b.x0)
    along = min(a.y1, b.y1) - max(a.y0, b.y0)
    return across * along if across > 0 and along > 0 else 0.0


def _outside(box: Bbox, frame: Bbox) -> float:
    beyond = max(0.0, frame.x0 - box.x0) + max(0.0, box.x1 - frame.x1)
    return (beyond + max(0.0, frame.y0 - box.y0) + max(0.0, box.y1 - frame.y1)) * 10
