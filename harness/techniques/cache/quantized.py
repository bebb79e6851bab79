"""Keys and values kept in 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from harness.interfaces import Context, Technique


@dataclass(frozen=True)
class QuantizedKV(Technique):
    """transformers' QuantizedCache: `bits` bits for all but the last `residual_length` tokens.

    Source: Liu et al. 2024 (KIVI), section 3.2 for the full-precision residual.
    """

    bits: Literal[2, 4, 8] = 4
    residual_length: int = 32
    backend: Literal["hqq", "quanto"] = "hqq"

    family: ClassVar = "cache"
    paper: ClassVar = "KIVI, arXiv 2402.02750"
    library: ClassVar = "transformers with hqq or optimum-quanto"

    def skip_reason(self, context: Context) -> str | None:
        """Needs the backend's library."""
        if find_spec({"hqq": "hqq", "quanto": "optimum.quanto"}[self.backend]) is None:
            return f"{self.backend} is not installed; install efficiency-harness[quant]"
        return None

    def cache(self, model: Any, maximum_tokens: int) -> Any:
        """A fresh quantized cache."""
        from transformers import QuantizedCache

        return QuantizedCache(
            backend=self.backend,
            config=model.config.get_text_config(decoder=True),
            nbits=self.bits,
            residual_length=self.residual_length,
            # hqq counts axes of the key (0 or 1), quanto those of its storage (0 or -1): each backend's per-token axis.
            **({"axis_key": 1, "axis_value": 1} if self.backend == "hqq" else {}),
        )
