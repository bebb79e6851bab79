"""Reading a prompt: one forward pass over many tokens, which fills the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Session, Work, Workload
from harness.workloads.inference import QUALITY_METRICS, InferenceSession


@dataclass(frozen=True)
class Prefill(Workload):
    """One forward pass over `prompt_tokens` tokens with a fresh cache; logits of the last position only."""

    batch_size: int = 1
    prompt_tokens: int = 512
    quality_windows: int = 64

    moments: ClassVar = frozenset({"configure", "load_options", "transform", "cache"})
    metrics: ClassVar = QUALITY_METRICS

    def prepare(self, model: Any, context: Context) -> Session:
        """Read the text and take the first prompt."""
        return _Prefill(model, context, self.batch_size, self.prompt_tokens, self.quality_windows)


class _Prefill(InferenceSession):
    def before_step(self) -> None:
        self.prompt = self.next_prompt()
        self.cache = self.new_cache(self.prompt_tokens)

    def step(self) -> None:
        import torch

        with torch.no_grad():
            self.model(input_ids=self.prompt, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.read_tokens += self.prompt.numel()

    def work(self) -> Work:
        tokens, dense = self.batch_size * self.prompt_tokens, (self.prompt_tokens, self.prompt_tokens)
        cache = self.plain_cache_bytes(self.prompt_tokens)
        return Work(
            samples=self.batch_size,
            prompt_tokens=tokens,
            model_flops=self.cost.forward_flops(tokens, (1, self.prompt_tokens), predicted=self.batch_size),
            dense_model_flops=self.cost.forward_flops(tokens, dense, predicted=self.batch_size),
            moved_bytes=None if cache is None else self.cost.touched_bytes + cache,
            dtype=self.dtype,
        )
