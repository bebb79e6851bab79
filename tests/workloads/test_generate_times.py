"""Token times of `generate` from synthetic timestamps: the step's own code, its clock replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.interfaces import Window, Work
from harness.meters.latency import Latency
from harness.workloads import generate

TIMES = st.floats(1e-6, 100)
#: For each request: when it starts after the one before it, and the wait for each of its tokens.
REQUESTS = st.integers(2, 9).flatmap(
    lambda tokens: st.lists(st.tuples(TIMES, st.lists(TIMES, min_size=tokens, max_size=tokens)), min_size=1, max_size=6)
)


class Tokens:
    """As much of a tensor as a step asks for."""

    shape = (1, 3)

    def __init__(self, count: int) -> None:
        self.count = count

    def numel(self) -> int:
        return self.count

    def new_ones(self, shape: Any) -> None:
        return None


class Model:
    """Hands the prompt and then every token to the streamer, as transformers' `generate` does."""

    def generate(self, prompt: Tokens, *, streamer: Any, max_new_tokens: int, **_: Any) -> Tokens:
        streamer.put(prompt)
        for token in range(max_new_tokens):
            streamer.put(token)
        streamer.end()
        return Tokens(prompt.count + max_new_tokens)


def session_at(clock: Iterator[float], new_tokens: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session whose every look at the clock gives the next of `clock`."""
    monkeypatch.setattr(generate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    session = object.__new__(generate._Generate)
    session.model, session.prompt, session.cache = Model(), Tokens(3), None  # type: ignore[assignment]
    session.new_tokens, session.arguments = new_tokens, {}
    session.output_tokens = session.read_tokens = 0
    session.forget()
    return session


def arrivals(requests: Sequence[tuple[float, list[float]]]) -> list[list[float]]:
    """Absolute times: each request's start, then those of its tokens."""
    found: list[list[float]] = []
    now = 0.0
    for pause, waits in requests:
        times = [now + pause]
        for wait in waits:
            times.append(times[-1] + wait)
        found.append(times)
        now = times[-1]
    return found


@given(REQUESTS)
def test_token_times_equal_vllms_formulas(requests: list[tuple[float, list[float]]]):
    stamps, tokens = arrivals(requests), len(requests[0][1])
    with pytest.MonkeyPatch.context() as patch:
        session = session_at(iter([stamp for times in stamps for stamp in times]), tokens, patch)
        for _ in stamps:
            session.step()
    whole = [times[-1] - times[0] for times in stamps]
    window = Window(
        Work(samples=1, prompt_tokens=3, output_tokens=tokens), whole, [], 0, 10**9, samples=session.samples()
    )
    found = Latency().readings(window).values
    # vllm/benchmarks/serve.py: ttft = first token - start; tpot = (latency - ttft) / (output_len - 1); itl pooled.
    ttft = [times[1] - times[0] for times in stamps]
    tpot = [(end - first) / (tokens - 1) for end, first in zip(whole, ttft, strict=True)]
    gaps = [gap for times in stamps for gap in np.diff(times[1:])]
    assert found["ttft_p50_seconds"] == pytest.approx(np.median(ttft), rel=1e-9)
    assert found["tpot_p50_seconds"] == pytest.approx(np.median(tpot), rel=1e-9)
    assert found["itl_p50_seconds"] == pytest.approx(np.median(gaps), rel=1e-9)
    assert session.counted() == {"output_tokens": tokens * len(stamps), "prompt_tokens": 3 * len(stamps)}


@given(st.tuples(TIMES, st.lists(TIMES, min_size=2, max_size=40)))
def test_a_request_is_its_first_token_and_a_tpot_for_each_further(request: tuple[float, list[float]]):
    (times,), tokens = arrivals([request]), len(request[1])
    with pytest.MonkeyPatch.context() as patch:
        session = session_at(iter(times), tokens, patch)
        session.step()
    whole = times[-1] - times[0]
    found = Latency().readings(
        Window(Work(samples=1, output_tokens=tokens), [whole], [], 0, 1, samples=session.samples())
    )
    values = found.values
    assert values["ttft_p50_seconds"] + values["tpot_p50_seconds"] * (tokens - 1) == pytest.approx(whole, rel=1e-9)
    assert session.samples()["request_seconds"] == [whole]


def test_a_step_after_the_window_adds_nothing_to_its_samples(monkeypatch: pytest.MonkeyPatch):
    session = session_at(iter(range(100)), 4, monkeypatch)  # type: ignore[arg-type]
    session.step()
    samples = session.samples()
    before = {name: list(values) for name, values in samples.items()}
    session.step()
    assert samples == before
