"""Unified normalization against its formulas, and fused against itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.fusing import TakenIn, fuse
from harness.decoder.norms.unified import Unified
from harness.techniques.low_rank.factored import LowRankTransformer
from harness.techniques.moe.mixture import Mixture
from harness.techniques.normalization.unified import UnifiedNorm
from harness.techniques.peft.lora import Lora
from harness.techniques.quantization.int8 import Int8
from harness.workloads.prefill import Prefill
from harness.workloads.train_step import TrainStep

EPSILON = 1e-5


def a_norm(window: int = 3, warmup: int = 3) -> Any:
    return Unified(DecoderConfig(rms_norm_eps=EPSILON), 6, window, warmup).train()


def step(norm: Any, hidden: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """One step's output and gradient."""
    hidden = hidden.clone().requires_grad_()
    output = norm(hidden)
    output.backward(gradient)
    assert hidden.grad is not None
    return output.detach(), hidden.grad


def steady(steps: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs and gradients of about one size; statistics of many tokens scatter little, so the roots are spread out."""
    torch.manual_seed(0)
    sizes = torch.linspace(0.5, 3.0, 6)
    return [(sizes * torch.randn(2, 200, 6), torch.randn(2, 200, 6)) for _ in range(steps)]


def test_before_anything_is_smoothed_it_is_a_norm_over_the_batch():
    norm = a_norm()
    for hidden, gradient in steady(3):
        found = step(norm, hidden, gradient)
        plain = hidden.clone().requires_grad_()
        expected = plain / (plain.square().mean((0, 1)) + EPSILON).sqrt()
        expected.backward(gradient)
        assert torch.allclose(found[0], expected, atol=1e-6)
        assert plain.grad is not None
        # The paper leaves the epsilon out of the gradient's statistic.
        assert torch.allclose(found[1], plain.grad, atol=1e-4)


def test_later_steps_take_the_means_of_the_recent_ones():
    norm, batches = a_norm(), steady(6)
    squares, slopes = [], []
    for number, (hidden, gradient) in enumerate(batches, start=1):
        output, found = step(norm, hidden, gradient)
        squares.append(hidden.square().mean((0, 1)))
        smooth = number > 3
        square = torch.stack(squares[-3:]).log().mean(0).exp() if smooth else squares[-1]
        expected = hidden / (square + EPSILON).sqrt()
        slopes.append((gradient * expected).mean((0, 1)))
        slope = torch.stack(slopes[-3:]).mean(0) if smooth else slopes[-1]
        assert torch.allclose(output, expected, atol=1e-5)
        assert torch.allclose(found, (gradient - slope * expected) / (square + EPSILON).sqrt(), atol=1e-5)


def test_an_outlier_is_left_to_itself_and_forgotten():
    norm, (*before, (hidden, gradient)) = a_norm(), steady(6)
    for pair in before:
        step(norm, *pair)
    running, kept = norm.running.clone(), list(norm.slopes)
    output, _ = step(norm, 30 * hidden, gradient)
    alone = 30 * hidden / (900 * hidden.square().mean((0, 1)) + EPSILON).sqrt()
    assert torch.allclose(output, alone, atol=1e-5)
    assert torch.equal(norm.squares[-1], running)
    assert torch.allclose(norm.slopes[-1], torch.stack(kept).mean(0))


def test_evaluation_uses_the_running_mean_and_changes_nothing():
    norm = a_norm()
    for pair in steady(8):
        step(norm, *pair)
    sizes = torch.linspace(0.5, 3.0, 6)
    assert torch.allclose(norm.running, sizes.square(), rtol=0.2)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    norm.eval()
    running, hidden = norm.running.clone(), torch.randn(1, 4, 6)
    expected = hidden / (running + EPSILON).sqrt() * norm.weight + norm.bias
    assert torch.allclose(norm(hidden), expected, atol=1e-5)
    assert torch.equal(norm.running, running)


def test_training_on_16_bits_keeps_statistics_of_32():
    norm = a_norm().to(torch.bfloat16)
    norm.running = norm.running.float()
    output, gradient = step(norm, torch.randn(2, 9, 6).bfloat16(), torch.randn(2, 9, 6).bfloat16())
    assert (output.dtype, gradient.dtype) == (torch.bfloat16, torch.bfloat16)
    assert {item.dtype for item in [*norm.squares, *norm.slopes, norm.running]} == {torch.float32}


def trained(context_of: Callable[..., Any], *others: Any, **architecture: Any) -> tuple[Any, Any]:
    """A model that trained for a moment, so that its norms are no identities, and its context for inference."""
    context = context_of(UnifiedNorm(warmup=2), *others, workload=Prefill(), **architecture)
    model = context.model.load(context).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(3)
    for _ in range(8):
        ids = torch.randint(0, 256, (4, 40))
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval(), context


@pytest.mark.parametrize(
    ("others", "architecture", "fused"),
    [
        ((), {}, 9),
        ((), {"model_type": "qwen2", "num_key_value_heads": 2}, 9),
        ((), {"tie_word_embeddings": True}, 8),
        ((LowRankTransformer(8),), {}, 1),
    ],
    ids=["plain", "biases", "tied", "low rank"],
)
def test_a_fused_model_computes_the_same(others: Any, architecture: Any, fused: int, context_of: Callable[..., Any]):
    model, context = trained(context_of, *others, **architecture)
    ids = torch.randint(0, 256, (2, 30))
    with torch.no_grad():
        before = model(ids).logits
        model = context.techniques[0].transform(model, context)
        assert torch.allclose(model(ids).logits, before, atol=1e-3, rtol=1e-3)
        assert before.std() > 0.1
    left = 9 - fused
    assert context.techniques[0].evidence(model) == f"{left} unified norms by themselves, {fused} in linear layers"
    assert fuse(model) == 0


def test_a_model_to_be_trained_keeps_its_norms(context_of: Callable[..., Any]):
    context = context_of(UnifiedNorm(), workload=TrainStep())
    model = context.techniques[0].transform(context.model.load(context), context)
    assert not [module for module in model.modules() if isinstance(module, TakenIn)]


@pytest.mark.parametrize("other", [Lora(), Int8()], ids=["adapters", "packed"])
def test_what_is_no_plain_layer_takes_no_norm_in(other: Any, context_of: Callable[..., Any]):
    model, context = trained(context_of)
    model, ids = other.transform(model, context), torch.randint(0, 256, (2, 30))
    with torch.no_grad():
        before = model(ids).logits
        model = context.techniques[0].transform(model, context)
        assert torch.allclose(model(ids).logits, before, atol=1e-3, rtol=1e-3)
    assert context.techniques[0].evidence(model) != "0 unified norms by themselves, 9 in linear layers"


def test_there_is_no_twin_of_a_mixture_to_normalize(context_of: Callable[..., Any]):
    mixture = Mixture(experts=4, experts_per_token=2)
    architecture = mixture.configure(context_of().model.architecture_facts(()))
    assert "no twin" in str(UnifiedNorm().skip_reason(context_of(**architecture)))


@pytest.mark.parametrize(("options", "said"), [({"window": 1}, "window must be"), ({"warmup": -1}, "warmup must be")])
def test_impossible_options_say_what_to_do(options: dict[str, int], said: str):
    with pytest.raises(ValueError, match=said):
        UnifiedNorm(**options)
