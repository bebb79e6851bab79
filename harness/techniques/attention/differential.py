"""The difference of two softmaxes in place of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context
from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Differential(PartTechnique):
    """Heads work in pairs, and the second's attention is taken from the first's.

    The paper halves the number of heads and doubles what each holds; that is these pairs. Weights and cache are as
    large as before but for four vectors of a head's width in each layer.

    Source: Ye et al. 2024, section 2.1.
    """

    family: ClassVar = "attention"
    paper: ClassVar = "Differential Transformer, arXiv 2410.05258"
    library: ClassVar = "this harness"
    #: The field of the architecture that sets the variant's number of parameters.
    width_field: ClassVar = "intermediate_size"

    def skip_reason(self, context: Context) -> str | None:
        """Needs heads that can be paired."""
        facts = context.model.architecture_facts(())
        reason = super().skip_reason(context)
        if reason is None:
            heads = facts["num_attention_heads"]
            groups = facts.get("num_key_value_heads") or heads
            if heads % 2 or groups % 2:
                return f"{heads} heads and {groups} key-value heads cannot be paired; both must be even"
        return reason

    def parts(self) -> dict[str, Any]:
        """The mixer."""
        return {"mixer": {"kind": "differential"}}
