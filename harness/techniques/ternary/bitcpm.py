"""A full-precision model made ternary: trained on from its weights, or rounded and packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Technique
from harness.techniques.ternary.packing import packed_for_inference


@dataclass(frozen=True)
class BitCPM(Technique):
    """Every linear layer but the output layer with weights of -1, 0 and 1 and a scale for each `group` inputs.

    Training workloads continue from the model's own weights with straight-through gradients, which is the paper's
    quantization-aware training; all others round those weights without training and hold them four to a byte, so their
    quality is that of rounding alone. Activations are not rounded. The paper's groups hold 128 or so inputs of wide
    layers; the default fits narrow ones. Banks of experts that are not linear layers stay as they are.
    Source: MiniCPM4, arXiv 2506.07900, the section on BitCPM4.
    """

    group: int = 64

    family: ClassVar = "ternary"
    paper: ClassVar = "MiniCPM4 (BitCPM4), arXiv 2506.07900"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ValueError("group must be at least 1; 64 is usual")

    def skip_reason(self, context: Context) -> str | None:
        """Needs widths that divide into groups, and weights that no other technique has packed."""
        architecture = context.model.architecture_facts(context.techniques)
        for name in ("hidden_size", "intermediate_size"):
            if architecture.get(name, 0) % self.group:
                return f"{name} {architecture[name]} does not divide into groups of {self.group}; choose another group"
        return None

    def transform(self, model: Any, context: Context) -> Any:
        """Replace the linear layers; pack them where nothing is trained."""
        from harness.decoder.linears.ternary import replace_layers

        return packed_for_inference(replace_layers(model, self.group), context)
