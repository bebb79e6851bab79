"""Means over the contexts of a run of tokens, for closed forms that do not grow evenly with the context."""

from __future__ import annotations

from collections.abc import Callable


def mean_over(total: Callable[[float], float], first: float, last: float) -> float:
    """The mean of a function of the context from `first` to `last`; `total` is its sum over contexts 1 to n."""
    return (total(last) - total(first - 1)) / (last - first + 1)
