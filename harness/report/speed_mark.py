"""A mark of a few pixels that shows a speed on a logarithmic scale, with what is known of its uncertainty."""

from __future__ import annotations

import math

from harness.report.markup import Html
from harness.report.metrics import LATENCY, ratio_column
from harness.report.ranks import place_of
from harness.report.wording import missing

WIDTH, HEIGHT = 92, 14


def reach_of(entries: list[dict]) -> float:
    """Half the width of a board's scale in doublings, so that its marks share an axis."""
    ends = [abs(end) / math.log(2) for entry in entries if _known(entry) for end in _ends(entry)]
    return min(max([0.4, *ends]), 6.0)


def speed_mark(entry: dict, reach: float) -> Html:
    """Inline SVG: a tick at the baseline, a line for the interval (dashed: spread within one run), a dot."""
    if not _known(entry):
        return Html("")
    place = place_of(entry)
    low, high = sorted(_x(end, reach) for end in _ends(entry))
    kind = "within" if place.runs == 1 else "between"
    middle = HEIGHT / 2
    return Html(
        f'<svg class="mark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">'
        f'<line class="one" x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{HEIGHT}"/>'
        f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{_x(-place.center, reach):.1f}" cy="{middle}" r="3"/></svg>'
    )


def _known(entry: dict) -> bool:
    return not missing(entry[ratio_column(LATENCY)])


def _ends(entry: dict) -> tuple[float, float]:
    # Speed is the inverse of the time ratio, hence the signs.
    place = place_of(entry)
    return -place.high, -place.low


def _x(logarithm: float, reach: float) -> float:
    share = max(-1.0, min(1.0, logarithm / math.log(2) / reach))
    return WIDTH / 2 + share * (WIDTH / 2 - 5)
