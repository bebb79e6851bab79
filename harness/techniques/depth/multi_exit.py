"""Exits between layers, which a token takes once layers no longer change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class MultiExit(PartTechnique):
    """An exit after each `every` layers, trained with a loss at each and taken above a similarity of `threshold`.

    How deep tokens went is the row's `executed_depth_ratio`; it depends on the text, so model FLOPs of inference are
    the least that any text needs. A threshold of 1 runs all layers. Random weights change a token little from layer to
    layer, so that nearly all leave at the first exit.
    Sources: Tang et al. 2023 (MuE) for the similarity of layers; Schuster et al. 2022 (CALM) for decoders:
    the states of skipped layers and the weights of the losses.
    """

    every: int = 2
    threshold: float = 0.98

    family: ClassVar = "depth"
    paper: ClassVar = "MuE, arXiv 2211.11152; CALM, arXiv 2207.07061"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError("every must be at least 1 layer")
        if not 0 < self.threshold <= 1:
            raise ValueError("threshold must lie above 0 and at most at 1, which runs all layers")

    def skip_reason(self, context: Any) -> str | None:
        """Needs a layer after the first exit."""
        layers = context.model.architecture_facts(()).get("num_hidden_layers", 0)
        if layers <= self.every:
            return f"no exit after {self.every} of {layers} layers"
        return super().skip_reason(context)

    def parts(self) -> dict[str, Any]:
        """The stack, and what training minimizes."""
        stack = {"kind": "exits", "every": self.every, "threshold": self.threshold}
        return {"stack": stack, "objective": {"kind": "exits"}}
