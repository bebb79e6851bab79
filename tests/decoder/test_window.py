"""Windows against Mistral's, and against attention under a mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from harness.decoder.attention import attend
from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.window import Window
from harness.decoder.parts import Run
from harness.decoder.positions.alibi import Alibi
from harness.decoder.positions.rope import Rope
from harness.models.architecture import build
from harness.run.tensors import reachable_bytes
from harness.techniques.attention.window import SlidingWindow
from tests.decoder.test_twin import TINY, renamed

SDPA = {"dtype": "float32", "attn_implementation": "sdpa"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_window_is_that_of_mistral(attention: str):
    # `generate` takes 0 for padding, which transformers' class masks.
    options, tokens = {**SDPA, "attn_implementation": attention}, torch.randint(1, 256, (2, 50))
    shape = {**TINY, "model_type": "mistral", "num_key_value_heads": 2, "initializer_range": 0.1}
    theirs = build({**shape, "sliding_window": 8}, options, "cpu", 0)
    ours = build(SlidingWindow(8).configure({**shape, "sliding_window": None}), options, "cpu", 1)
    ours.load_state_dict({renamed(name): value for name, value in theirs.state_dict().items()})
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, ours(tokens).logits, atol=1e-4)
        caches = [DynamicCache(config=model.config) for model in (theirs, ours)]
        for model, cache in zip((theirs, ours), caches, strict=True):
            model(tokens, past_key_values=cache, use_cache=True)
    greedy: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(theirs.generate(tokens, **greedy), ours.generate(tokens, **greedy))
    assert caches[0].layers[0].keys.shape[2] == 7  # type: ignore[union-attr]
    assert reachable_bytes(caches[1]) == 2 * 4 * 2 * (2 * 32) * 7 * 4


@settings(max_examples=40)
@given(
    window=st.integers(2, 12),
    parts=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    groups=st.sampled_from([1, 2, 4]),
    biased=st.booleans(),
    backend=st.sampled_from(["sdpa", "eager"]),
)
def test_blocks_are_full_attention_under_a_mask(window: int, parts: list[int], groups: int, biased: bool, backend: str):
    torch.manual_seed(0)
    config = DecoderConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=groups)
    config._attn_implementation = backend
    position = (Alibi if biased else Rope)(config)
    mixer, cache, tokens = Window(config, 0, position, window), DynamicCache(), sum(parts)
    hidden, places = torch.randn(2, tokens, 32), torch.arange(tokens)[None]
    distances = places.mT - places
    whole = Run(0, places)
    with torch.no_grad():
        query, key, value = mixer.projected(hidden, whole)
        allowed = (distances >= 0) & (distances < window)
        expected = mixer.joined(attend(query, key, value, bias=mixer.bias(whole, tokens), allowed=allowed))
        assert torch.allclose(mixer(hidden, whole, 0), expected, atol=1e-5)
        found, first = [], 0
        for part in parts:
            run = Run(first, places[:, first : first + part], cache)
            found.append(mixer(hidden[:, first : first + part], run, 0))
            first += part
    assert torch.allclose(torch.cat(found, 1), expected, atol=1e-5)


@given(first=st.integers(1, 60), more=st.integers(0, 60), window=st.integers(2, 40))
def test_the_cost_is_that_of_the_positions_seen(first: int, more: int, window: int):
    config = DecoderConfig(hidden_size=32, num_attention_heads=4)
    contexts = range(first, first + more + 1)
    seen = sum(min(context, window) for context in contexts) / len(contexts)
    found = Window(config, 0, Rope(config), window).mixing(first, first + more)
    assert math.isclose(found, 2 * 32 * seen, rel_tol=1e-9)


def test_memory_of_a_long_sequence_grows_with_the_window(monkeypatch: pytest.MonkeyPatch):
    shapes: list[Any] = []
    given: Callable[..., Any] = attend

    def watched(query: Any, key: Any, value: Any, **options: Any) -> Any:
        shapes.append(query.shape[0] * query.shape[2] * key.shape[2])
        return given(query, key, value, **options)

    monkeypatch.setattr("harness.decoder.window.attend", watched)
    config = DecoderConfig(hidden_size=32, num_attention_heads=4)
    config._attn_implementation = "sdpa"
    mixer = Window(config, 0, Rope(config), 16)
    mixer(torch.randn(1, 1024, 32), Run(0, torch.arange(1024)[None]), 0)
    assert sum(shapes) <= 2 * 16 * 1024


def test_a_window_of_one_is_refused():
    with pytest.raises(ValueError, match="window must be at least 2"):
        SlidingWindow(1)
