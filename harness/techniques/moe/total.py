"""A mixture of experts in place of each feed-forward layer, at equal total parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context
from harness.techniques.moe.mixture import Mixture


@dataclass(frozen=True)
class TotalMixture(Mixture):
    """`experts` experts, each 1/experts as wide as the dense layer: together they hold as many weights as it did (the
    router aside), and a token meets experts_per_token/experts of them.

    What is saved is computation, not memory; the mixture at equal active parameters is its counterpart. Source: Jiang
    et al. 2024 (Mixtral), section 2.1.
    """

    family: ClassVar = "moe"
    paper: ClassVar = "Mixtral, arXiv 2401.04088"
    library: ClassVar = "transformers"

    def skip_reason(self, context: Context) -> str | None:
        """As for equal active parameters, and the width must divide by the number of experts."""
        reason = super().skip_reason(context)
        width = context.model.architecture_facts(()).get("intermediate_size", 0)
        if reason is None and width % self.experts:
            return f"intermediate_size {width} does not divide by {self.experts}"
        return reason

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """Mixtral's block with narrower experts."""
        width = architecture["intermediate_size"] // self.experts
        return {**super().configure(architecture), "intermediate_size": width}
