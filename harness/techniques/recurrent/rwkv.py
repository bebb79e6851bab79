"""RWKV's layers in place of attention and feed-forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Rwkv(PartTechnique):
    """RWKV-4: time mixing for attention, channel mixing of `expand` times the hidden size for the feed-forward layer.

    Norms and embeddings stay the model's own, where RWKV has LayerNorm and one norm more after the embeddings.

    Source: Peng et al. 2023, section 3.1; the inner width of appendix D.
    """

    expand: int = 4

    family: ClassVar = "recurrent"
    paper: ClassVar = "RWKV, arXiv 2305.13048"
    library: ClassVar = "this harness"
    #: The field of the architecture that sets the variant's number of parameters.
    width_field: ClassVar = "intermediate_size"

    def __post_init__(self) -> None:
        if self.expand < 1:
            raise ValueError("expand must be at least 1")

    def parts(self) -> dict[str, Any]:
        """Time mixing, and the block with channel mixing."""
        return {"mixer": {"kind": "rwkv"}, "block": {"kind": "rwkv"}}

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """The parts, and the width of channel mixing."""
        return {**super().configure(architecture), "intermediate_size": self.expand * architecture["hidden_size"]}
