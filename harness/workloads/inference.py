"""What prefill, decode and generate share: prompts from the held-out text, costs, quality, and the cache in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.interfaces import Context, Metric, Session
from harness.run.closed_forms import forms_of
from harness.run.flops import cost_of
from harness.run.tensors import reachable_bytes
from harness.workloads.acting import acting
from harness.workloads.batches import bits_per_byte_through_cache, held_out_windows, random_batch, tokenize

QUALITY_METRICS = (
    Metric("quality_bits_per_byte", "held-out loss in bits per byte after the window's work", "lower"),
    Metric("quality_standard_error_bits_per_byte", "standard error of quality over held-out windows"),
)


class InferenceSession(Session):
    """A model, prompts of `prompt_tokens`, and what every inference workload reports."""

    def __init__(self, model: Any, context: Context, batch_size: int, prompt_tokens: int, quality_windows: int) -> None:
        import torch

        self.model, self.device, self.context = model, context.device, context
        self.batch_size, self.prompt_tokens = batch_size, prompt_tokens
        self.text = tokenize(context.corpus.load(), context.model.tokenizer())
        self.generator = torch.Generator().manual_seed(context.seed)
        self.windows = held_out_windows(self.text.held_out, quality_windows, 256)
        self.cost = cost_of(model)
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.cache: Any = None
        self.output_tokens = self.read_tokens = 0

    def next_prompt(self) -> Any:
        """A fresh (batch_size, prompt_tokens) tensor of token ids on the device."""
        return random_batch(self.text.held_out, self.batch_size, self.prompt_tokens, self.generator).to(self.device)

    def new_cache(self, maximum_tokens: int) -> Any:
        """The technique's cache, or transformers' default."""
        from transformers import DynamicCache

        technique = acting(self.context.techniques, "cache")
        if technique:
            return technique.cache(self.model, maximum_tokens)
        return DynamicCache(config=self.model.config)

    def plain_cache_bytes(self, tokens: int) -> float | None:
        """What an unquantized cache of `tokens` tokens would hold for the whole batch, by closed form."""
        forms = forms_of(self.model)
        return None if forms is None else forms.held_bytes(tokens, self.model.dtype.itemsize) * self.batch_size

    def read_cache_bytes(self, tokens: int) -> float | None:
        """What the whole batch's next tokens must read of an unquantized cache of `tokens` tokens, by closed form."""
        forms = forms_of(self.model)
        return None if forms is None else forms.read_bytes(tokens, self.model.dtype.itemsize) * self.batch_size

    def counted(self) -> Mapping[str, int]:
        return {"output_tokens": self.output_tokens, "prompt_tokens": self.read_tokens}

    def held_bytes(self) -> Mapping[str, int]:
        return {} if self.cache is None else {"kv_cache_bytes": reachable_bytes(self.cache)}

    def outcome(self) -> Mapping[str, float | None]:
        if not self.quality_is_meaningful():
            return {}
        mean, error = bits_per_byte_through_cache(
            self.model, self.windows, self.device, self.new_cache, bytes_per_token=self.text.bytes_per_token
        )
        return {"quality_bits_per_byte": mean, "quality_standard_error_bits_per_byte": error}

    def quality_is_meaningful(self) -> bool:
        """Random weights predict nothing, so their loss says nothing about a technique."""
        model = self.context.model
        return model.ingredients(self.context) is not None or getattr(model, "weights", "random") != "random"

    def facts(self) -> Mapping[str, Any]:
        meaningful = self.quality_is_meaningful()
        return {
            **self.text.facts,
            "cache": type(self.cache).__name__ if _is_used(self.cache) else None,
            "quality_basis": "held-out loss of text that follows a cached half"
            if meaningful
            else "none: random weights predict nothing",
        }


def _is_used(cache: Any) -> bool:
    """Whether any layer keeps keys in it: some mixers keep states of their own instead, whatever the cache's kind."""
    return any(getattr(layer, "keys", None) is not None for layer in getattr(cache, "layers", ()))
