"""Which points nothing else beats in both directions."""

from __future__ import annotations

from collections.abc import Sequence


def front(xs: Sequence[float], ys: Sequence[float], x_lower: bool = True, y_lower: bool = True) -> list[int]:
    """Indices of the points that no other point equals or beats in both while beating it in one; by x ascending.

    `x_lower` and `y_lower` say which way is better. Of points that are equal in both, all stay.
    """
    points = [(x if x_lower else -x, y if y_lower else -y) for x, y in zip(xs, ys, strict=True)]
    kept = [i for i, (x, y) in enumerate(points) if not any(a <= x and b <= y and (a < x or b < y) for a, b in points)]
    return sorted(kept, key=lambda i: (xs[i], ys[i]))
