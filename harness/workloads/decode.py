"""One more token: a forward pass over one position with a filled cache. Its time is TPOT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Session, Work, Workload
from harness.workloads.acting import acting
from harness.workloads.inference import QUALITY_METRICS, InferenceSession


@dataclass(frozen=True)
class Decode(Workload):
    """Greedy decoding, one step a token, after a prompt of `prompt_tokens`; a new sequence every `new_tokens`."""

    batch_size: int = 1
    prompt_tokens: int = 256
    new_tokens: int = 128
    quality_windows: int = 64

    moments: ClassVar = frozenset({"configure", "load_options", "transform", "cache"})
    metrics: ClassVar = QUALITY_METRICS

    def prepare(self, model: Any, context: Context) -> Session:
        """Read the text; the prompt is read before the first step, untimed."""
        return _Decode(self, model, context)


class _Decode(InferenceSession):
    def __init__(self, workload: Decode, model: Any, context: Context) -> None:
        super().__init__(model, context, workload.batch_size, workload.prompt_tokens, workload.quality_windows)
        self.new_tokens, self.position = workload.new_tokens, workload.new_tokens
        self.token: Any = None
        self.held: dict[str, int] = {}

    def before_step(self) -> None:
        if self.position < self.new_tokens:
            return
        if self.cache is not None:
            self.held = dict(super().held_bytes())
        self.cache, self.position = self.new_cache(self.prompt_tokens + self.new_tokens), 0
        self.token = self._forward(self.next_prompt())

    def step(self) -> None:
        self.token = self._forward(self.token)
        self.position += 1
        self.output_tokens += self.token.numel()

    def _forward(self, tokens: Any) -> Any:
        import torch

        with torch.no_grad():
            output = self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1:].argmax(-1)

    def held_bytes(self) -> dict[str, int]:
        # A full sequence where one was finished: the length at which the window happened to end says little.
        return self.held or dict(super().held_bytes())

    def facts(self) -> dict[str, Any]:
        full = self.plain_cache_bytes(self.prompt_tokens + self.new_tokens)
        return {**super().facts(), "plain_kv_cache_bytes": full if self.held else None}

    def work(self) -> Work:
        contexts = (self.prompt_tokens + 1, self.prompt_tokens + self.new_tokens)
        cache = self.read_cache_bytes(sum(contexts) // 2)
        flops = self.cost.forward_flops(self.batch_size, contexts)
        return Work(
            samples=self.batch_size,
            output_tokens=self.batch_size,
            model_flops=flops,
            dense_model_flops=flops,  # nothing that is cached is masked
            moved_bytes=None if cache is None or self.context_changes_cache() else self.cost.touched_bytes + cache,
            dtype=self.dtype,
        )

    def context_changes_cache(self) -> bool:
        """Whether a technique replaces the cache, so that the closed form of its traffic does not hold."""
        return acting(self.context.techniques, "cache") is not None
