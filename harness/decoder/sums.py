"""Sums over contexts 1 to n in closed form, for what an attention costs that does not see every position."""

from __future__ import annotations

from collections.abc import Callable


def mean_over(total: Callable[[int], float], first: float, last: float) -> float:
    """The mean of a function over the whole contexts from `first` to `last`; `total` is its sum from 1 to n.

    Of no contexts at all (`last` before `first`) it is the function's value at the first.
    """
    start, end = int(first), max(int(first), int(last))
    return (total(end) - total(start - 1)) / (end - start + 1)


def sum_of_contexts(count: int) -> float:
    """1 + 2 + ... + count."""
    return count * (count + 1) / 2


def sum_of_minima(count: int, limit: int) -> float:
    """The sum of min(n, limit) for n from 1 to `count`."""
    within = min(count, limit)
    return sum_of_contexts(within) + (count - within) * limit


def sum_of_quotients(count: int, divisor: int) -> float:
    """The sum of n // divisor for n from 0 to `count`; nothing below 0."""
    whole, rest = divmod(max(count, 0), divisor)
    return divisor * whole * (whole - 1) / 2 + whole * (rest + 1)


def windows_within(tokens: int, length: int, stride: int) -> int:
    """How many windows of `length` tokens, one every `stride`, are complete within so many tokens."""
    return max(0, (tokens - length) // stride + 1)


def sum_of_windows(count: int, length: int, stride: int) -> float:
    """The sum of `windows_within(n, length, stride)` for n from 1 to `count`."""
    return sum_of_quotients(count - length + stride, stride)


def sum_of_chosen(count: int, blocks: int, size: int) -> float:
    """The sum, for contexts from 1 to `count`, of positions seen in `blocks` blocks of `size`, the own one among them.

    All positions while they lie in no more blocks than that; later the blocks before the own one are whole, and the own
    one holds what there is of it. The positions left out are those of (n - 1) // size - (blocks - 1) whole blocks.
    """
    return sum_of_contexts(count) - size * sum_of_quotients(count - 1 - (blocks - 1) * size, size)
