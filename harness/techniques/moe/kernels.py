"""How the products of experts run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness.interfaces import Context, Technique


@dataclass(frozen=True)
class ExpertsKernel(Technique):
    """Runs a mixture's products by `implementation`: an expert after the other (`eager`), one kernel over tokens sorted
    by expert (`grouped_mm`, transformers' default), or one product for each visit with a copy of its expert's weights
    (`batched_mm`). The numbers are the same; stack it with a mixture.

    While `generate` runs, transformers may choose another implementation for single tokens by itself.
    """

    implementation: Literal["eager", "grouped_mm", "batched_mm"] = "eager"

    family: ClassVar = "moe"
    paper: ClassVar = "grouped products: MegaBlocks, arXiv 2211.15841"
    library: ClassVar = "transformers"

    def skip_reason(self, context: Context) -> str | None:
        """Needs a model with experts, of its own or by another technique."""
        if has_experts(context.model.architecture_facts(context.techniques)):
            return None
        return "the model has no experts; stack it with a mixture, such as [moe,experts_eager]"

    def transform(self, model: Any, context: Context) -> Any:
        """Say it in the configuration, which every bank of experts asks."""
        model.set_experts_implementation(self.implementation)
        return model

    def evidence(self, model: Any) -> str | None:
        """What the configuration says now."""
        return f"experts run by {model.config._experts_implementation}"


def has_experts(architecture: dict[str, Any]) -> bool:
    """Whether an architecture, as plain data, has a mixture of experts."""
    if architecture.get("model_type") == "harness_decoder":
        parts = architecture.get("feed_forward") or []
        return any("experts" in part for part in (parts if isinstance(parts, list) else [parts]))
    layers, dense = architecture.get("num_hidden_layers", 0), architecture.get("first_k_dense_replace", 0)
    counts = ("num_local_experts", "num_experts", "n_routed_experts")
    return any(architecture.get(name) for name in counts) and not 0 < layers <= dense
