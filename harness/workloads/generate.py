"""A request from end to end through `generate`, with the time of every token as it leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Session, Work, Workload
from harness.run.flops import Contexts
from harness.workloads.acting import acting
from harness.workloads.inference import QUALITY_METRICS, InferenceSession


@dataclass(frozen=True)
class Generate(Workload):
    """Greedy generation of exactly `new_tokens` tokens for `batch_size` prompts.

    TTFT, TPOT and ITL follow vLLM's serving benchmark: TPOT = (end to end - TTFT) / (tokens - 1) for each request, ITL
    is every gap between tokens, pooled.
    """

    batch_size: int = 1
    prompt_tokens: int = 256
    new_tokens: int = 64
    quality_windows: int = 64

    moments: ClassVar = frozenset({"configure", "load_options", "transform", "cache", "generation"})
    metrics: ClassVar = QUALITY_METRICS

    def __post_init__(self) -> None:
        if self.new_tokens < 2:
            raise ValueError("new_tokens must be at least 2: TPOT needs a gap between two tokens")

    def prepare(self, model: Any, context: Context) -> Session:
        """Read the text and take the first prompt."""
        return _Generate(self, model, context)


class _Generate(InferenceSession):
    def __init__(self, workload: Generate, model: Any, context: Context) -> None:
        super().__init__(model, context, workload.batch_size, workload.prompt_tokens, workload.quality_windows)
        self.new_tokens = workload.new_tokens
        technique = acting(context.techniques, "generation")
        self.arguments: dict[str, Any] = technique.generation() if technique else {}
        self.ttft: list[float] = []
        self.gaps: list[float] = []
        self.requests: list[float] = []

    def before_step(self) -> None:
        self.prompt = self.next_prompt()
        self.cache = self.new_cache(self.prompt_tokens + self.new_tokens)

    def step(self) -> None:
        clock = _TokenClock()
        output = self.model.generate(
            self.prompt,
            attention_mask=self.prompt.new_ones(self.prompt.shape),
            past_key_values=self.cache,
            streamer=clock,
            do_sample=False,
            min_new_tokens=self.new_tokens,
            max_new_tokens=self.new_tokens,
            pad_token_id=0,
            eos_token_id=None,
            **self.arguments,
        )
        self.output_tokens += output.numel() - self.prompt.numel()
        self.read_tokens += self.prompt.numel()
        self.ttft.append(clock.times[0] - clock.start)
        self.gaps += [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
        self.requests.append(clock.times[-1] - clock.start)

    def forget(self) -> None:
        self.ttft, self.gaps, self.requests = [], [], []

    def work(self) -> Work:
        return Work(
            samples=self.batch_size,
            prompt_tokens=self.batch_size * self.prompt_tokens,
            output_tokens=self.batch_size * self.new_tokens,
            model_flops=self._flops((1, self.prompt_tokens)),
            dense_model_flops=self._flops((self.prompt_tokens, self.prompt_tokens)),
            dtype=self.dtype,
        )

    def _flops(self, prompt: Contexts) -> float | None:
        """FLOPs of a request whose prompt's tokens have these contexts."""
        tokens, later = self.batch_size * self.prompt_tokens, self.batch_size * (self.new_tokens - 1)
        first = self.cost.forward_flops(tokens, prompt, predicted=self.batch_size)
        rest = self.cost.forward_flops(later, (self.prompt_tokens + 1, self.prompt_tokens + self.new_tokens - 1))
        return None if first is None or rest is None or self.arguments else first + rest

    def samples(self) -> Mapping[str, list[float]]:
        # Copies: a meter's probe steps once more after the window, and its disturbed times are no sample.
        found = {"token_gap_seconds": self.gaps, "ttft_seconds": self.ttft, "request_seconds": self.requests}
        return {name: list(values) for name, values in found.items()}


class _TokenClock:
    """A streamer that notes when each token reaches the host; transformers calls `put` once with the prompt first."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.times: list[float] = []
        self.prompt_seen = False

    def put(self, value: Any) -> None:
        if self.prompt_seen:
            self.times.append(time.perf_counter())
        self.prompt_seen = True

    def end(self) -> None:
        """Required of a streamer; nothing is buffered here."""
