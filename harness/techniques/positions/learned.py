"""A trained vector for each place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Learned(PartTechnique):
    """Added to the embeddings; as many places as the model's `max_position_embeddings`, and an error beyond.

    Source: Gehring et al. 2017 (arXiv 1705.03122), section 3.1; Radford et al. 2019 (GPT-2).
    """

    family: ClassVar = "positions"
    paper: ClassVar = "Convolutional sequence to sequence learning, arXiv 1705.03122"

    def parts(self) -> dict[str, Any]:
        """The position."""
        return {"position": {"kind": "learned"}}
