"""Low-rank adapters beside frozen weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Technique


@dataclass(frozen=True)
class Lora(Technique):
    """LoRA on every linear layer but the output layer.

    Source: Hu et al. 2021, section 4.1. `scale` is lora_alpha / r.
    """

    r: int = 16
    scale: float = 2.0

    family: ClassVar = "peft"
    paper: ClassVar = "LoRA, arXiv 2106.09685"
    library: ClassVar = "peft"

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError("r must be at least 1")

    def transform(self, model: Any, context: Context) -> Any:
        """Wrap the model; only the adapters stay trainable."""
        from peft import LoraConfig, get_peft_model

        options = LoraConfig(r=self.r, lora_alpha=round(self.scale * self.r), target_modules="all-linear")
        return get_peft_model(model, options)
