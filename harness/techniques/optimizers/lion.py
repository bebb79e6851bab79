"""Sign of an interpolated momentum: one state instead of Adam's two."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from harness.interfaces import Context, Technique


@dataclass(frozen=True)
class Lion(Technique):
    """Lion at `learning_rate_ratio` of the baseline's learning rate.

    Source: Chen et al. 2023, algorithm 2; section 5 advises a learning rate 3 to 10 times below AdamW's.
    """

    learning_rate_ratio: float = 0.2

    family: ClassVar = "optimizers"
    paper: ClassVar = "Lion, arXiv 2302.06675"
    library: ClassVar = "lion-pytorch"

    def skip_reason(self, context: Context) -> str | None:
        """Needs its library."""
        if find_spec("lion_pytorch") is None:
            return "lion-pytorch is not installed; install efficiency-harness[optim]"
        return None

    def optimizer(self, parameters: list[Any], learning_rate: float) -> Any:
        """lion-pytorch's Lion."""
        from lion_pytorch import Lion as LionOptimizer

        return LionOptimizer(parameters, lr=learning_rate * self.learning_rate_ratio)
