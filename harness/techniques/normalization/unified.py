"""Unified normalization: batch statistics in training, nothing left of them at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context
from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class UnifiedNorm(PartTechnique):
    """Statistics smoothed over `window` steps after `warmup` of them; for inference the norms go into linear layers.

    Source: Yang et al. 2022; windows of 4, a warm-up of 4,000 steps for translation. In training a token
    meets statistics of later tokens, as with any norm over the batch; in evaluation the statistics are constants.
    """

    window: int = 4
    warmup: int = 10

    family: ClassVar = "normalization"
    paper: ClassVar = "Unified Normalization, arXiv 2208.01313"

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError("window must be at least 2: one step alone has nothing to be smoothed with")
        if self.warmup < 0:
            raise ValueError("warmup must be 0 or more")

    def parts(self) -> dict[str, Any]:
        """The norm."""
        return {"norm": {"kind": "unified", "window": self.window, "warmup": self.warmup}}

    def transform(self, model: Any, context: Context) -> Any:
        """Take the norms into the linear layers after them, unless the model is to be trained."""
        from harness.decoder.fusing import fuse

        if not {"optimizer", "training_step"} & context.workload.moments:
            fuse(model)
        return model

    def evidence(self, model: Any) -> str | None:
        """What became of the norms."""
        names = [type(module).__name__ for module in model.modules()]
        return f"{names.count('Unified')} unified norms by themselves, {names.count('TakenIn')} in linear layers"
