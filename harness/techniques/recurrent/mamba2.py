"""State space layers in place of attention and feed-forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context
from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Mamba2(PartTechnique):
    """Two layers of Mamba-2 for each layer of the model, none with a feed-forward layer.

    Each is `expand` times as wide inside as the hidden size; with 2 a pair has about the parameters of the layer that
    it replaces (Gu and Dao 2023, section 3.4). The inner width stands in the architecture's `intermediate_size`, the
    doubled number in `num_hidden_layers`.

    Source: Dao and Gu 2024, sections 6 and 7; state of 128 and heads of 64 as in section 9.2.
    """

    state_size: int = 128
    head_width: int = 64
    expand: int = 2

    family: ClassVar = "recurrent"
    paper: ClassVar = "Mamba-2, arXiv 2405.21060"
    library: ClassVar = "this harness"
    #: The field of the architecture that sets the variant's number of parameters, in steps of `head_width`.
    width_field: ClassVar = "intermediate_size"

    def __post_init__(self) -> None:
        for name in ("state_size", "head_width", "expand"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    def skip_reason(self, context: Context) -> str | None:
        """Needs an inner width that divides into heads."""
        reason = super().skip_reason(context)
        hidden = context.model.architecture_facts(()).get("hidden_size", 0)
        if reason is None and hidden * self.expand % self.head_width:
            return f"{self.expand} times hidden_size {hidden} does not divide by head_width {self.head_width}"
        return reason

    def parts(self) -> dict[str, Any]:
        """The mixer, and a block of nothing else."""
        mixer = {"kind": "mamba2", "state_size": self.state_size, "head_width": self.head_width}
        return {"mixer": mixer, "block": {"kind": "mixer_only"}}

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """The parts, the inner width and twice the layers."""
        return {
            **super().configure(architecture),
            "intermediate_size": self.expand * architecture["hidden_size"],
            "num_hidden_layers": 2 * architecture["num_hidden_layers"],
        }
