"""One small latent in place of all heads' keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Latent(PartTechnique):
    """Multi-head latent attention: the cache keeps `key_value_rank` + `rotary_width` numbers of a token and layer.

    Unset, the rank is four heads' widths and the rotary width half a head's: DeepSeek-V2's proportions (512 and 64 at
    heads of 128). `query_rank` makes the queries of a latent too (1536 there); DeepSeek-V2-Lite has none. Heads keep
    their number and the width of their values; queries and keys grow by the rotary width.

    Source: DeepSeek-V2 2024, section 2.1; sizes of section 3.1.2.
    """

    key_value_rank: int | None = None
    rotary_width: int | None = None
    query_rank: int | None = None

    family: ClassVar = "attention"
    paper: ClassVar = "MLA, arXiv 2405.04434"
    library: ClassVar = "this harness"
    #: The field of the architecture that sets the variant's number of parameters.
    width_field: ClassVar = "intermediate_size"

    def __post_init__(self) -> None:
        for name in ("key_value_rank", "rotary_width", "query_rank"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, or null for its default")
        if self.rotary_width is not None and self.rotary_width % 2:
            raise ValueError("rotary_width must be even: its numbers turn in pairs")

    def parts(self) -> dict[str, Any]:
        """The mixer."""
        sizes = {
            "key_value_rank": self.key_value_rank,
            "rotary_width": self.rotary_width,
            "query_rank": self.query_rank,
        }
        return {"mixer": {"kind": "latent", **{name: size for name, size in sizes.items() if size is not None}}}
