"""AdamW with 8-bit states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Technique


@dataclass(frozen=True)
class Adam8bit(Technique):
    """AdamW whose two moments are kept in 8 bits, in blocks of 256. The first step compiles."""

    family: ClassVar = "optimizers"
    paper: ClassVar = "8-bit optimizers, arXiv 2110.02861"
    library: ClassVar = "torchao"

    def optimizer(self, parameters: list[Any], learning_rate: float) -> Any:
        """torchao's AdamW8bit."""
        from torchao.optim import AdamW8bit

        return AdamW8bit(parameters, lr=learning_rate)
