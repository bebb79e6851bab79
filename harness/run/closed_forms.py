"""What mixing tokens costs, by closed form, layer kinds and all: multiply-adds, and bytes kept and read.

A model says its own; of one that does not, whatever follows from a closed form is null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Forms:
    """Of all layers together, for one sequence."""

    #: Multiply-adds of one token beyond its linear layers, averaged over tokens whose contexts (the positions up to and
    #: with themselves) run evenly from the first number to the last.
    mixing: Callable[[float, float], float]
    #: Bytes that are kept of a sequence of so many tokens, with numbers of so many bytes.
    held_bytes: Callable[[int, int], float]
    #: Bytes of them that the next token must read at least.
    read_bytes: Callable[[int, int], float]


def forms_of(model: Any) -> Forms | None:
    """What the model says of itself by `closed_forms`; None where it says nothing."""
    own = getattr(model, "closed_forms", None)
    return None if own is None else own()


def full_attention(multiply_adds: float, kept_numbers: float) -> Forms:
    """Of attention to all positions: multiply-adds for each query and key, and numbers kept of each position."""

    def held(tokens: int, element_bytes: int) -> float:
        return kept_numbers * tokens * element_bytes

    return Forms(lambda first, last: multiply_adds * (first + last) / 2, held, held)
