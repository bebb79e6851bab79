"""Rotary positions, the twin's own: what the change of class alone does, to hold other positions against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Rotary(PartTechnique):
    """Queries and keys turn with the place; `theta` is the base of the wavelengths, null for the model's own.

    Source: Su et al. 2021, section 3.2.2. The model computes what it did before, made of parts.
    """

    theta: float | None = None

    family: ClassVar = "positions"
    paper: ClassVar = "RoFormer, arXiv 2104.09864"

    def __post_init__(self) -> None:
        if self.theta is not None and self.theta <= 1:
            raise ValueError("theta must be above 1, such as 10000 or 500000, or null for the model's own")

    def parts(self) -> dict[str, Any]:
        """The position, with its base where one is given."""
        return {"position": {"kind": "rope"} if self.theta is None else {"kind": "rope", "theta": self.theta}}
