"""Fewer key-value heads than query heads (GQA; MQA with a single one)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Technique


@dataclass(frozen=True)
class GroupedQuery(Technique):
    """`key_value_heads` heads shared by all query heads; 1 is multi-query attention.

    Source: Ainslie et al. 2023, section 2.2 (GQA); Shazeer 2019 (MQA).
    """

    key_value_heads: int = 2

    family: ClassVar = "attention"
    paper: ClassVar = "GQA, arXiv 2305.13245; MQA, arXiv 1911.02150"
    library: ClassVar = "transformers"

    def skip_reason(self, context: Context) -> str | None:
        """Needs an architecture that names its key-value heads, and more of them than asked for."""
        architecture = context.model.architecture_facts(())
        if "num_attention_heads" not in architecture or "kv_lora_rank" in architecture:
            return "the architecture has no key-value heads to share"
        if architecture.get("num_key_value_heads", architecture["num_attention_heads"]) <= self.key_value_heads:
            return f"the model has no more than {self.key_value_heads} key-value heads already"
        return None

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """Set `num_key_value_heads`."""
        return {**architecture, "num_key_value_heads": self.key_value_heads}
