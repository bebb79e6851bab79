"""A mixture of experts in place of each feed-forward layer, at equal active parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Technique


@dataclass(frozen=True)
class Mixture(Technique):
    """`experts` experts of which each token visits `experts_per_token`, each 1/experts_per_token as wide as the dense
    layer, so that a token meets as many feed-forward weights as before (the router aside).

    Source: Jiang et al. 2024 (Mixtral), section 2.1; equal active parameters as in Krajewski et al. 2024.
    """

    experts: int = 8
    experts_per_token: int = 2
    #: Weight of the load-balancing loss.
    balance: float = 0.01

    family: ClassVar = "moe"
    paper: ClassVar = "Mixtral, arXiv 2401.04088"
    library: ClassVar = "transformers"

    def __post_init__(self) -> None:
        if not 0 < self.experts_per_token <= self.experts:
            raise ValueError("experts_per_token must lie between 1 and experts")

    def skip_reason(self, context: Context) -> str | None:
        """Only Llama's block has a mixture twin here, and its width must divide."""
        architecture = context.model.architecture_facts(())
        if architecture.get("model_type") not in ("llama", "mistral"):
            return f"no mixture twin of {architecture.get('model_type')!r} here; llama and mistral have one"
        if architecture["intermediate_size"] % self.experts_per_token:
            return f"intermediate_size {architecture['intermediate_size']} does not divide by {self.experts_per_token}"
        return None

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """Llama's block becomes Mixtral's, which is the same but for the feed-forward layer."""
        kept = {key: value for key, value in architecture.items() if key not in ("mlp_bias", "attention_bias")}
        return {
            **kept,
            "model_type": "mixtral",
            "intermediate_size": architecture["intermediate_size"] // self.experts_per_token,
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.experts_per_token,
            "sliding_window": None,
        }

    def transform(self, model: Any, context: Context) -> Any:
        """While training, the load-balancing loss is added (section 3.1 of Switch, arXiv 2101.03961): without it a
        router soon sends all tokens to the same experts. Inference does not pay for its terms."""
        model.config.output_router_logits = "optimizer" in context.workload.moments
        model.config.router_aux_loss_coef = self.balance
        return model
