"""No positions at all."""

from __future__ import annotations

from typing import Any

from harness.decoder.parts import Position


class NoPosition(Position):
    """The causal mask alone tells the order (NoPE: Haviv et al. 2022; Kazemnejad et al. 2023)."""


PART: Any = NoPosition
