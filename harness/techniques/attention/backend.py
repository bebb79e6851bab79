"""Which implementation computes attention; the mathematics stays the same."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from harness.interfaces import Context, Technique, moments


class Backend(Technique):
    """One of transformers' implementations of attention, by `implementation`."""

    implementation: ClassVar[str]

    family: ClassVar = "attention"
    library: ClassVar = "transformers"

    def skip_reason(self, context: Context) -> str | None:
        """Needs another implementation to replace."""
        if getattr(context.model, "attention", None) == self.implementation:
            return f"the model's attention is {self.implementation} already; choose another by model.attention"
        return None

    def load_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Name the implementation."""
        return {**options, "attn_implementation": self.implementation}

    def evidence(self, model: Any) -> str | None:
        """What the loaded model dispatches to."""
        found = model.config._attn_implementation
        return f"attention through {found}" if found == self.implementation else None


@dataclass(frozen=True)
class Eager(Backend):
    """Plain matrix products, with all scores in memory (Vaswani et al. 2017, equation 1)."""

    implementation: ClassVar = "eager"
    paper: ClassVar = "Attention is all you need, arXiv 1706.03762"


@dataclass(frozen=True)
class Flex(Backend):
    """Torch's flex attention: a kernel that is compiled for the mask, on the first step of each kind.

    Source: Dong et al. 2024.
    """

    implementation: ClassVar = "flex_attention"
    paper: ClassVar = "FlexAttention, arXiv 2412.05496"
    library: ClassVar = "torch"

    def skip_reason(self, context: Context) -> str | None:
        """No backward pass on a CPU; parts of our own call no kernel of transformers."""
        if context.device == "cpu" and _goes_backward(context):
            return "torch's flex attention has no backward pass on a CPU; use device=cuda or an inference workload"
        return super().skip_reason(context) or _own_parts(context)


@dataclass(frozen=True)
class Flash2(Backend):
    """The flash-attn package: exact attention in tiles, scores never in memory.

    Source: Dao 2023, section 3.
    """

    implementation: ClassVar = "flash_attention_2"
    paper: ClassVar = "FlashAttention-2, arXiv 2307.08691"
    library: ClassVar = "flash-attn"

    def skip_reason(self, context: Context) -> str | None:
        """Needs its package, a GPU, and numbers of 16 bits."""
        if find_spec("flash_attn") is None:
            return "flash_attn is not installed; install flash-attn for this torch and CUDA"
        if context.device != "cuda":
            return "flash-attn runs on a GPU alone; set device=cuda"
        if _dtype(context) == "float32":
            return "flash-attn takes 16-bit numbers alone; set model.dtype=bfloat16 or stack it with bf16"
        return super().skip_reason(context) or _own_parts(context)


def _goes_backward(context: Context) -> bool:
    """Whether a step computes gradients by backpropagation."""
    replaced = any("training_step" in moments(technique) for technique in context.techniques)
    trains = "optimizer" in context.workload.moments and not replaced
    return trains or bool(getattr(context.workload, "backward", False))


def _own_parts(context: Context) -> str | None:
    """Why no kernel of transformers is called, or None where one is."""
    if context.model.architecture_facts(context.techniques).get("model_type") == "harness_decoder":
        return "a model made of parts attends through sdpa or eager alone"
    return None


def _dtype(context: Context) -> str | None:
    """The dtype that the model is loaded in, after every technique's loading options."""
    options: dict[str, Any] = {"dtype": getattr(context.model, "dtype", None), "attn_implementation": ""}
    for technique in context.techniques:
        options = technique.load_options(options)
    return options["dtype"]
