"""Whether two rankings of the same things say the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b, -1 to 1: concordant less discordant pairs, over the pairs that neither ranking ties.

    None below two entries, or where one ranking ties everything. ValueError for rankings of different length.
    Source: Kendall, The treatment of ties in ranking problems, Biometrika 33 (1945).
    """
    signs = [
        (_sign(a - b), _sign(x - y))
        for (a, x), (b, y) in itertools.combinations(zip(first, second, strict=True), 2)
    ]  # fmt: skip
    untied = math.prod(sum(pair[side] != 0 for pair in signs) for side in (0, 1))
    return sum(one * other for one, other in signs) / math.sqrt(untied) if untied else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
