"""Linear layers that are products of two narrow ones from the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context
from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class LowRankTransformer(PartTechnique):
    """Every linear layer of attention and feed-forward of rank `rank`, unless that would be no smaller.

    Source: Cahyawijaya 2021 (Greenformers), the Low-Rank Transformer; Winata et al. 2020 (arXiv 1910.13923).
    The output layer and the embeddings stay whole.
    """

    rank: int = 32

    family: ClassVar = "low_rank"
    paper: ClassVar = "Greenformers, arXiv 2108.10808"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError("rank must be at least 1")

    def skip_reason(self, context: Context) -> str | None:
        """Needs a rank that saves something in the largest layers."""
        reason = super().skip_reason(context)
        if reason:
            return reason
        architecture = context.model.architecture_facts(())
        hidden, wide = architecture.get("hidden_size", 0), architecture.get("intermediate_size", 0)
        if hidden and wide and self.rank * (hidden + wide) >= hidden * wide:
            most = (hidden * wide - 1) // (hidden + wide)
            return f"a rank of {self.rank} makes no layer smaller here; take {most} or less"
        return None

    def parts(self) -> dict[str, Any]:
        """The linear layers."""
        return {"linear": {"kind": "low_rank", "rank": self.rank}}
