"""Attention to the last positions alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class SlidingWindow(PartTechnique):
    """A token sees itself and the `window` - 1 positions before it, which is what the cache keeps.

    Source: Beltagy et al. 2020, section 3.1; Jiang et al. 2023 (Mistral, arXiv 2310.06825), section 2, whose window
    is 4,096.
    """

    window: int = 16

    family: ClassVar = "attention"
    paper: ClassVar = "Longformer, arXiv 2004.05150"

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError("window must be at least 2: a token and the one before it")

    def parts(self) -> dict[str, Any]:
        """The mixer."""
        return {"mixer": {"kind": "window", "window": self.window}}
