"""Which of several entries the runs can tell apart, with all pairs of them in view at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from harness.stats import student
from harness.stats.pairs import holm

#: Of all families without any true difference, at most this share may show one.
FAMILY_LEVEL = 0.05
#: From this many common repeats on their own scatter is trusted; two say next to nothing of it.
MEASURED_FROM = 3
#: Between processes, as a standard deviation of the logarithm: assumed where fewer than three runs show it.
ASSUMED_SCATTER = 0.05


def separations(values: Sequence[Mapping[float, float]], scatters: Sequence[float]) -> list[list[int]]:
    """For each two entries -1 where the first is surely lower, 1 where it is surely higher, else 0.

    `values` holds each entry's number (a logarithm) by repeat; repeats of one key were measured side by side and are
    paired. `scatters` is the standard deviation between processes to assume where repeats are too few to show it.
    Holm's method over all pairs that share a repeat keeps the chance of any wrong claim at `FAMILY_LEVEL`.
    """
    found = [[0] * len(values) for _ in values]
    pairs, means, p_values = [], [], []
    for a, b in itertools.combinations(range(len(values)), 2):
        differences = [values[a][key] - values[b][key] for key in values[a].keys() & values[b].keys()]
        if differences:
            pairs.append((a, b))
            means.append(math.fsum(differences))
            p_values.append(p_value(differences, math.sqrt(2) * max(scatters[a], scatters[b])))
    for (a, b), mean, adjusted in zip(pairs, means, holm(p_values), strict=True):
        if adjusted <= FAMILY_LEVEL:
            found[a][b] = 1 if mean > 0 else -1
            found[b][a] = -found[a][b]
    return found


def p_value(differences: Sequence[float], assumed_deviation: float) -> float:
    """Two-sided p value of a zero mean: Student's t from `MEASURED_FROM` differences on, below it a normal test.

    The normal test takes the larger of `assumed_deviation` and what two differences show as their standard deviation.
    """
    count = len(differences)
    mean = math.fsum(differences) / count
    shown = math.sqrt(math.fsum((x - mean) ** 2 for x in differences) / (count - 1)) if count > 1 else 0.0
    rounding = 1e-12 * max(1.0, *map(abs, differences))
    if abs(mean) <= rounding:
        return 1.0
    if count < MEASURED_FROM:
        error = max(assumed_deviation, shown) / math.sqrt(count)
        return math.erfc(abs(mean) / error / math.sqrt(2)) if error else 0.0
    if shown <= rounding:
        return 0.0
    return 2 * (1 - student.cumulative(abs(mean) / shown * math.sqrt(count), count - 1))
