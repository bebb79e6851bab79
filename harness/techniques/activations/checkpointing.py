"""Activations recomputed in the backward pass instead of kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Technique


@dataclass(frozen=True)
class Checkpointing(Technique):
    """Keep only each block's input; recompute the rest.

    Source: Chen et al. 2016, section 4, with one segment for each block.
    """

    family: ClassVar = "activations"
    paper: ClassVar = "Sublinear memory cost, arXiv 1604.06174"
    library: ClassVar = "transformers"

    def skip_reason(self, context: Context) -> str | None:
        """Only backpropagation keeps activations."""
        if "optimizer" not in context.workload.moments:
            return "this workload takes no training step"
        return None

    def transform(self, model: Any, context: Context) -> Any:
        """Switch transformers' checkpointing on."""
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def evidence(self, model: Any) -> str | None:
        """Blocks that now recompute."""
        count = sum(bool(getattr(module, "gradient_checkpointing", False)) for module in model.modules())
        return f"{count} modules recompute their activations" if count else None
