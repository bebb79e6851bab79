"""Weights and arithmetic in bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Technique


@dataclass(frozen=True)
class Half(Technique):
    """Load the weights in bfloat16: half the bytes of float32 with its range."""

    family: ClassVar = "quantization"
    paper: ClassVar = "bfloat16 training, arXiv 1905.12322"
    library: ClassVar = "torch"

    def skip_reason(self, context: Context) -> str | None:
        """Nothing to do where the model is bfloat16 already."""
        if getattr(context.model, "dtype", None) == "bfloat16":
            return "the model is bfloat16 already"
        return None

    def load_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Set the dtype."""
        return {**options, "dtype": "bfloat16"}
