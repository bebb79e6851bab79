"""Linear layers that are ternary from the first training step on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context
from harness.techniques.parts import PartTechnique
from harness.techniques.ternary.packing import packed_for_inference


@dataclass(frozen=True)
class BitNet(PartTechnique):
    """Weights of -1, 0 and 1 with one scale for a matrix, inputs rounded to `activation_bits` bits for each token.

    Embeddings and the output layer stay as they are. Training workloads hold the full-precision weights behind the
    ternary ones; all others hold the ternary ones, four to a byte. Training costs more memory and time than the
    baseline's here, and inference more time: see `TernaryLinear` on what a kernel would mend.
    Source: Ma et al. 2024, section 2; the normalization before each rounding is SubLN of Wang et al. 2023, section 2.1.
    """

    activation_bits: int = 8

    family: ClassVar = "ternary"
    paper: ClassVar = "BitNet b1.58, arXiv 2402.17764; BitNet, arXiv 2310.11453"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        if not 2 <= self.activation_bits <= 8:
            raise ValueError("activation_bits must lie between 2 and 8; the paper's is 8")

    def parts(self) -> dict[str, Any]:
        """The linear layers of mixers and feed-forwards."""
        return {"linear": {"kind": "ternary", "activation_bits": self.activation_bits, "normalized": True}}

    def transform(self, model: Any, context: Context) -> Any:
        """Pack the weights where nothing is trained."""
        return packed_for_inference(model, context)
