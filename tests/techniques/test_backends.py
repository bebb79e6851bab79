"""Backends of attention: seen to act, the same numbers, and a reason where they cannot run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.run.execute import load
from harness.techniques.attention.backend import Eager, Flash2, Flex
from harness.techniques.attention.window import SlidingWindow
from harness.techniques.quantization.half import Half
from harness.techniques.zeroth_order.mezo import MeZO
from harness.workloads.prefill import Prefill

Contexts = Callable[..., Any]
FLASH = "harness.techniques.attention.backend.find_spec"


def test_another_backend_is_seen_and_computes_the_same(context_of: Contexts):
    ids, contexts = torch.randint(0, 256, (2, 40)), (context_of(), context_of(Eager()))
    (plain, nothing), (eager, changes) = (load(item, ["attention_eager"] * len(item.techniques)) for item in contexts)
    assert (nothing, changes) == ({}, {"attention_eager": ["", "attention through eager"]})
    assert (plain.config._attn_implementation, eager.config._attn_implementation) == ("sdpa", "eager")
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, eager(ids).logits, atol=1e-5)


def test_a_backend_reaches_a_model_made_of_parts(context_of: Contexts):
    context = context_of(SlidingWindow(), Eager())
    model, changes = load(context, ["window", "attention_eager"])
    assert model.stack.blocks[0].mixer.backend == "eager"
    assert "attention through eager" in changes["attention_eager"]


def test_a_backend_that_was_not_taken_is_no_evidence(context_of: Contexts):
    model = context_of().model.load(context_of())
    assert Eager().evidence(model) is None


def test_a_backend_that_the_model_has_is_skipped(context_of: Contexts):
    assert Eager().skip_reason(context_of(Eager())) is None
    assert "is eager already" in str(Eager().skip_reason(context_of(Eager(), attention="eager")))


def test_flex_attention_trains_on_no_cpu_and_calls_no_parts(context_of: Contexts):
    assert "no backward pass on a CPU" in str(Flex().skip_reason(context_of(Flex())))
    assert Flex().skip_reason(context_of(Flex(), MeZO())) is None
    assert Flex().skip_reason(context_of(Flex(), workload=Prefill())) is None
    reason = Flex().skip_reason(context_of(SlidingWindow(), Flex(), workload=Prefill()))
    assert reason == "a model made of parts attends through sdpa or eager alone"


def test_flash_attention_says_what_it_lacks(context_of: Contexts, monkeypatch: pytest.MonkeyPatch):
    import dataclasses

    context = context_of(Flash2())
    monkeypatch.setattr(FLASH, lambda _: None)
    assert "flash_attn is not installed" in str(Flash2().skip_reason(context))
    monkeypatch.setattr(FLASH, lambda _: object())
    assert "on a GPU alone" in str(Flash2().skip_reason(context))
    context = dataclasses.replace(context, device="cuda")
    assert "model.dtype=bfloat16" in str(Flash2().skip_reason(context))
    context = dataclasses.replace(context, techniques=(Flash2(), Half()))
    assert Flash2().skip_reason(context) is None
    context = dataclasses.replace(context, techniques=(SlidingWindow(), Flash2(), Half()))
    assert "made of parts" in str(Flash2().skip_reason(context))


def test_flex_attention_computes_what_fused_attention_does(context_of: Contexts):
    tokens = torch.randint(0, 256, (2, 40))
    models = [context.model.load(context) for context in (context_of(), context_of(Flex()))]
    assert models[1].config._attn_implementation == "flex_attention"
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiling the kernel takes half a minute
        fused, flex = (model(tokens).logits for model in models)
    assert torch.allclose(fused, flex, atol=1e-4)
