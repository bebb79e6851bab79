"""Attention to projected keys and values (Linformer), made causal by blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Linformer(PartTechnique):
    """A token sees its own block of `block` positions exactly and each finished block before as `slots` summaries.

    Source: Wang et al. 2020, section 4. A causal adaptation, not the published method: that one projects the whole
    sequence, later positions too, to 128 or 256 of 512 and more; here the ratio of `slots` to `block` says how many.
    """

    block: int = 16
    slots: int = 4

    family: ClassVar = "attention"
    paper: ClassVar = "Linformer, arXiv 2006.04768"

    def __post_init__(self) -> None:
        if not 0 < self.slots < self.block:
            raise ValueError("slots must be at least 1 and fewer than block, or nothing is summed up")

    def parts(self) -> dict[str, Any]:
        """The mixer."""
        return {"mixer": {"kind": "linformer", "block": self.block, "slots": self.slots}}
