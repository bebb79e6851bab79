"""8-bit integer weights with a scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Technique, moments


@dataclass(frozen=True)
class Int8(Technique):
    """Weight-only int8 in every linear layer; activations keep their dtype."""

    family: ClassVar = "quantization"
    paper: ClassVar = "LLM.int8(), arXiv 2208.07339 (the idea; here without outlier columns)"
    library: ClassVar = "torchao"

    def skip_reason(self, context: Context) -> str | None:
        """Integer weights take no gradient, so training needs a technique that adds trainable ones."""
        trained = {"optimizer", "training_step"} & context.workload.moments
        if trained and not any("transform" in moments(other) for other in context.techniques if other is not self):
            return "integer weights cannot be trained; stack it with an adapter, such as [int8,lora]"
        return None

    def transform(self, model: Any, context: Context) -> Any:
        """Quantize in place."""
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig())
        return model
