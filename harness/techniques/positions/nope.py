"""No positions, everywhere or in some layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class NoPositions(PartTechnique):
    """The causal mask alone tells the order.

    Source: Kazemnejad et al. 2023; Haviv et al. 2022 (arXiv 2203.16634).
    """

    family: ClassVar = "positions"
    paper: ClassVar = "NoPE, arXiv 2305.19466"

    def parts(self) -> dict[str, Any]:
        """The position."""
        return {"position": {"kind": "none"}}


@dataclass(frozen=True)
class NopeRope(PartTechnique):
    """Of every `period` layers the first attends to all without positions, the others to a window with rotary ones.

    Source: SmallThinker (arXiv 2507.20984), the NoPE-RoPE hybrid: periods of 4, windows of 4,096.
    """

    period: int = 4
    window: int = 16

    family: ClassVar = "positions"
    paper: ClassVar = "SmallThinker, arXiv 2507.20984"

    def __post_init__(self) -> None:
        if self.period < 2:
            raise ValueError("period must be at least 2: one layer that sees all, and one with a window")
        if self.window < 2:
            raise ValueError("window must be at least 2: a token and the one before it")

    def parts(self) -> dict[str, Any]:
        """Mixers and positions, which the layers take in turn."""
        others = self.period - 1
        return {
            "mixer": [{"kind": "full"}, *[{"kind": "window", "window": self.window}] * others],
            "position": [{"kind": "none"}, *[{"kind": "rope"}] * others],
        }
