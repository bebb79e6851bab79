"""Packed weights and caches really take fewer bytes, and compute nearly the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from harness.run.tensors import model_bytes, reachable_bytes
from harness.techniques.cache.quantized import QuantizedKV
from harness.techniques.quantization.int8 import Int8
from harness.techniques.quantization.nf4 import NF4

needs_hqq = pytest.mark.skipif(find_spec("hqq") is None, reason="hqq is not installed")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def filled(model: Any, cache: Any, tokens: int) -> int:
    with torch.no_grad():
        for chunk in torch.randint(256, (1, tokens), generator=torch.Generator().manual_seed(0)).split(tokens // 4, 1):
            model(input_ids=chunk, past_key_values=cache, use_cache=True)
    return reachable_bytes(cache)


@needs_hqq
def test_a_4_bit_cache_holds_less_than_a_third(context_of: Callable[..., Any]):
    technique = QuantizedKV()
    context = context_of(technique, num_hidden_layers=2)
    model = context.model.load(context)
    plain = filled(model, DynamicCache(config=model.config), 1024)
    assert filled(model, technique.cache(model, 1024), 1024) < 0.3 * plain


@needs_hqq
@pytest.mark.parametrize(("fewer", "more"), [(2, 4), (4, 8)])
def test_fewer_bits_hold_fewer_bytes(fewer: Any, more: Any, context_of: Callable[..., Any]):
    context = context_of(num_hidden_layers=1)
    model = context.model.load(context)
    sizes = [filled(model, QuantizedKV(bits=bits).cache(model, 512), 512) for bits in (fewer, more)]
    assert sizes[0] < 0.7 * sizes[1]


@needs_bitsandbytes
def test_4_bit_weights_take_less_than_0_35_of_their_linear_layers(context_of: Callable[..., Any]):
    plain, packed = context_of(), context_of(NF4())
    before, after = plain.model.load(plain), packed.model.load(packed)
    # The embeddings and the output layer stay as they are: they are most of what is left of a model this small.
    apart = 2 * before.get_input_embeddings().weight.nbytes
    assert model_bytes(after) - apart < 0.35 * (model_bytes(before) - apart)
    assert model_bytes(after) < 0.35 * model_bytes(before)


@needs_bitsandbytes
def test_4_bit_weights_are_the_same_model(context_of: Callable[..., Any]):
    plain, packed = context_of(), context_of(NF4())
    batch = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (context.model.load(context)(input_ids=batch).logits for context in (plain, packed))
    similarity = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    assert 0.9 < similarity.mean() < 1.0


def test_8_bit_weights_are_the_same_model(context_of: Callable[..., Any]):
    context = context_of(Int8())
    batch = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))
    model = context.model.load(context)
    with torch.no_grad():
        before = model(input_ids=batch).logits
        size = model_bytes(model)
        model = Int8().transform(model, context)
        after = model(input_ids=batch).logits
    assert torch.nn.functional.cosine_similarity(before, after, dim=-1).min() > 0.99
    assert model_bytes(model) < 0.35 * size


@pytest.mark.parametrize("technique", [Int8(), NF4()], ids=["int8", "nf4"])
def test_packed_weights_are_not_trained_alone(technique: Any, context_of: Callable[..., Any]):
    from harness.techniques.peft.lora import Lora
    from harness.workloads.prefill import Prefill

    reason = technique.skip_reason(context_of(technique))
    assert reason is not None
    assert "lora" in reason or "installed" in reason
    if "installed" not in reason:
        assert technique.skip_reason(context_of(technique, Lora())) is None
        assert technique.skip_reason(context_of(technique, workload=Prefill())) is None
