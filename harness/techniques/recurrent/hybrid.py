"""What recurrent mixers share that leave some layers their attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Hybrid(PartTechnique):
    """Layers take a recurrent mixer, and every `full_every`-th keeps full attention; 0 leaves none."""

    full_every: int = 4

    family: ClassVar = "recurrent"
    library: ClassVar = "this harness"
    #: The field of the architecture that sets the variant's number of parameters.
    width_field: ClassVar = "intermediate_size"

    def __post_init__(self) -> None:
        if self.full_every < 0 or self.full_every == 1:
            raise ValueError("full_every must be 0 for no layer with attention, or at least 2")

    def mixer(self) -> dict[str, Any]:
        """The recurrent mixer."""
        raise NotImplementedError

    def parts(self) -> dict[str, Any]:
        """The mixers that the layers take in turn."""
        if not self.full_every:
            return {"mixer": self.mixer()}
        return {"mixer": [*[self.mixer()] * (self.full_every - 1), {"kind": "full"}]}
