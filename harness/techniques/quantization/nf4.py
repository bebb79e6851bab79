"""4-bit NormalFloat weights, dequantized block by block when they are used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from harness.interfaces import Context, Technique, moments


@dataclass(frozen=True)
class NF4(Technique):
    """Every linear layer but the output layer in NF4 with blocks of 64.

    Source: Dettmers et al. 2023 (QLoRA), section 3.
    """

    double_quantization: bool = True

    family: ClassVar = "quantization"
    paper: ClassVar = "QLoRA, arXiv 2305.14314"
    library: ClassVar = "bitsandbytes"

    def skip_reason(self, context: Context) -> str | None:
        """4-bit weights take no gradient, so training needs a technique that adds trainable ones."""
        if find_spec("bitsandbytes") is None:
            return "bitsandbytes is not installed; install efficiency-harness[quant]"
        trained = {"optimizer", "training_step"} & context.workload.moments
        if trained and not any("transform" in moments(other) for other in context.techniques if other is not self):
            return "4-bit weights cannot be trained; stack it with an adapter, such as [nf4,lora]"
        return None

    def load_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Add transformers' quantization configuration."""
        import torch
        from transformers import BitsAndBytesConfig

        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double_quantization,
            bnb_4bit_compute_dtype=getattr(torch, options["dtype"]),
        )
        return {**options, "quantization_config": quantization}
