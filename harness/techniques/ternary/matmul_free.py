"""A decoder whose layers hold no product of two full-precision matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context
from harness.techniques.parts import PartTechnique
from harness.techniques.ternary.packing import packed_for_inference


@dataclass(frozen=True)
class MatMulFree(PartTechnique):
    """Gated linear recurrences in place of attention, and ternary linear layers throughout.

    The channel mixer is the gated feed-forward that is there already, with ternary weights (section 3.3.2). "Free of
    products" holds for hardware that adds ternary weights; here they are multiplied like others, and FLOPs count so.
    Training workloads hold full-precision weights behind the ternary ones; all others hold them four to a byte.
    Source: Zhu et al. 2024, section 3.
    """

    activation_bits: int = 8

    family: ClassVar = "ternary"
    paper: ClassVar = "MatMul-free LM, arXiv 2406.02528"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        if not 2 <= self.activation_bits <= 8:
            raise ValueError("activation_bits must lie between 2 and 8; the paper's is 8")

    def parts(self) -> dict[str, Any]:
        """The token mixer and the linear layers."""
        linear = {"kind": "ternary", "activation_bits": self.activation_bits, "normalized": True}
        return {"mixer": {"kind": "hgrn"}, "linear": linear}

    def transform(self, model: Any, context: Context) -> Any:
        """Pack the weights where nothing is trained."""
        return packed_for_inference(model, context)
