"""Techniques that change the architecture change the model as it is built, and leave the rest of it alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.techniques.activations.checkpointing import Checkpointing
from harness.techniques.attention.grouped_query import GroupedQuery
from harness.techniques.moe.mixture import Mixture
from harness.techniques.peft.lora import Lora
from harness.workloads.prefill import Prefill


@pytest.mark.parametrize("heads", [1, 2])
def test_shared_heads_narrow_keys_and_values_only(heads: int, context_of: Callable[..., Any]):
    plain = dict(context_of().model.empty(()).named_parameters())
    grouped = dict(context_of().model.empty((GroupedQuery(heads),)).named_parameters())
    changed = {name.split(".")[-2] for name in plain if plain[name].shape != grouped[name].shape}
    assert changed == {"k_proj", "v_proj"}
    assert grouped["model.layers.0.self_attn.k_proj.weight"].shape == (32 * heads, 128)


def test_as_many_heads_as_there_are_is_skipped(context_of: Callable[..., Any]):
    assert GroupedQuery(4).skip_reason(context_of()) is not None
    assert GroupedQuery(2).skip_reason(context_of()) is None


def test_a_mixture_replaces_the_feed_forward_layers_only(context_of: Callable[..., Any]):
    plain = context_of().model.empty(())
    mixture = context_of().model.empty((Mixture(8, 2),))
    assert {name for name, _ in plain.named_parameters() if "mlp" not in name} <= {
        name for name, _ in mixture.named_parameters()
    }
    assert mixture.config.intermediate_size == plain.config.intermediate_size // 2
    assert (mixture.config.num_local_experts, mixture.config.num_experts_per_tok) == (8, 2)


@pytest.mark.parametrize("chosen", [(0, 1), (2, 0), (2, 3)])
def test_a_mixture_that_cannot_be_is_refused(chosen: tuple[int, int]):
    with pytest.raises(ValueError, match="experts_per_token"):
        Mixture(*chosen)


def test_a_mixture_of_a_width_that_does_not_divide_is_skipped(context_of: Callable[..., Any]):
    assert "divide" in str(Mixture(8, 3).skip_reason(context_of()))
    assert "qwen2" in str(Mixture().skip_reason(context_of(model_type="qwen2")))


def test_only_adapters_are_trained_and_at_first_they_change_nothing(context_of: Callable[..., Any]):
    context = context_of(Lora(r=4))
    model = context.model.load(context)
    batch = torch.randint(256, (1, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(input_ids=batch).logits
        model = Lora(r=4).transform(model, context)
        torch.testing.assert_close(model(input_ids=batch).logits, before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4 * 4 * (4 * (128 + 128) + 3 * (128 + 448))


def test_merged_adapters_are_the_adapted_model(context_of: Callable[..., Any]):
    context = context_of(Lora(r=4), num_hidden_layers=1)
    model = Lora(r=4).transform(context.model.load(context), context)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = torch.randint(256, (1, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(input_ids=batch).logits
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=batch).logits, before, rtol=1e-3, atol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_checkpointing_needs_a_backward_pass(context_of: Callable[..., Any]):
    assert Checkpointing().skip_reason(context_of(workload=Prefill())) is not None
    assert Checkpointing().skip_reason(context_of()) is None


def test_recomputed_gradients_are_the_same_gradients(context_of: Callable[..., Any]):
    batch = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))
    gradients = []
    for techniques in ((), (Checkpointing(),)):
        context = context_of(*techniques)
        model = context.model.load(context).train()
        for technique in techniques:
            model = technique.transform(model, context)
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)
