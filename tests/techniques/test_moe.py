"""What mixtures hold and cost against the dense layer that they replace, and how their products may run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.interfaces import Technique
from harness.run.flops import active_parameters, cost_of
from harness.techniques.moe.fine_grained import FineGrained
from harness.techniques.moe.kernels import ExpertsKernel, has_experts
from harness.techniques.moe.mixture import Mixture
from harness.techniques.moe.parts import ExpertsTechnique
from harness.techniques.moe.plus_plus import PlusPlus
from harness.techniques.moe.pre_attention import PreAttentionRouter
from harness.techniques.moe.shortcut import Shortcut
from harness.techniques.moe.stochastic import Stochastic
from harness.techniques.moe.total import TotalMixture
from harness.techniques.moe.widenet import WideNet
from harness.techniques.moe.zero_experts import ZeroExperts

HIDDEN, WIDTH, LAYERS = 128, 448, 4
DENSE = 3 * HIDDEN * WIDTH  # one feed-forward layer of the tiny model
Contexts = Callable[..., Any]


def built(context_of: Contexts, *techniques: Technique, **architecture: Any) -> Any:
    context = context_of(*techniques, **architecture)
    assert [technique.skip_reason(context) for technique in techniques] == [None] * len(techniques)
    return context.model.empty(techniques)


def feed_forward_weights(model: Any, banks_alone: bool = False) -> int:
    """Weights of experts and dense feed-forwards: all that has a gate, up and down; routers aside."""
    names = ("gate_up_proj", "down_proj") + (() if banks_alone else ("gate.weight", "up.weight", "down.weight"))
    wanted = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if name.endswith(names) and ("feed_forward" in name or "experts" in name or "shared" in name)
    }
    return sum(wanted.values())


#: A technique, the feed-forward weights that a token meets in all layers over the dense model's, and those held.
SIZES: dict[str, tuple[Technique, float, float]] = {
    "equal active parameters": (Mixture(), 1, 4),
    "equal total parameters": (TotalMixture(), 1 / 4, 1),
    "fine": (FineGrained(shared=0), 1, 4),
    "fine and shared": (FineGrained(), 1, 4),
    "whole and shared": (FineGrained(segments=1), 1, 4),
    "cheap ones beside": (PlusPlus(), 0.75 * 8 / (0.75 * 8 + 4), 4),
    "as many as needed": (ZeroExperts(), 1, 4),
    "shortcut": (Shortcut(), 1, (2 * 0.5 + 4) / 2),
    "by lot": (Stochastic(), 1, 4),
    "early": (PreAttentionRouter(), 1, 4),
    "one layer for all": (WideNet(), 1, 4 / LAYERS),
}


@pytest.mark.parametrize(("technique", "met", "held"), SIZES.values(), ids=SIZES)
def test_a_token_meets_and_memory_holds_what_the_technique_says(
    technique: Technique, met: float, held: float, context_of: Contexts
):
    model, dense = built(context_of, technique), built(context_of)
    assert feed_forward_weights(model) == held * LAYERS * DENSE
    # Routers and constants are the rest: a few rows of the hidden width.
    extra = cost_of(model).active_matmul_weights - cost_of(dense).active_matmul_weights - (met - 1) * LAYERS * DENSE
    assert -1e-6 <= extra <= LAYERS * HIDDEN * 40


def test_a_shared_layer_is_held_once_and_met_at_every_depth(context_of: Contexts):
    model, dense = built(context_of, WideNet()), built(context_of)
    routers = LAYERS * 8 * HIDDEN
    assert cost_of(model).active_matmul_weights == cost_of(dense).active_matmul_weights + routers
    assert active_parameters(model) < active_parameters(dense)


@pytest.mark.parametrize("technique", [Mixture(), Stochastic()], ids=lambda item: type(item).__name__)
def test_a_training_step_costs_what_torch_counts_less_the_masked_half(technique: Technique, context_of: Contexts):
    """THOR passes its batch twice, and a mixture at equal active parameters once."""
    context = context_of(technique, attention="eager")
    model = context.model.load(context)
    model.config._experts_implementation = "eager"
    model.train()
    tokens, cost = torch.randint(0, 256, (2, 32)), cost_of(model)
    with FlopCounterMode(display=False) as counter:
        model(tokens, labels=tokens).loss.backward()
    parts = cost.forward_flops(64, (32, 32)), cost.backward_flops(64, (32, 32))
    assert None not in parts
    assert sum(part or 0.0 for part in parts) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_fine_and_shared_experts_count_as_the_paper_does(context_of: Contexts):
    """Section 3: mN segments less those shared are chosen from, mK less those shared are chosen."""
    (block, *_) = built(context_of, FineGrained(experts=4, experts_per_token=2, segments=4, shared=2)).stack.blocks
    assert block.feed_forward.experts.num_experts == 4 * 4 - 2
    assert block.feed_forward.router.visited == 2 * 4 - 2
    assert block.feed_forward.shared.gate.weight.shape == (2 * WIDTH // 8, HIDDEN)
    assert block.feed_forward.experts.down_proj.shape[2] == WIDTH // 8


@pytest.mark.parametrize(
    ("technique", "architecture", "said"),
    [
        (FineGrained(segments=3), {}, "intermediate_size 448 does not divide by 6"),
        (TotalMixture(experts=6), {}, "intermediate_size 448 does not divide by 6"),
        (TotalMixture(), {"intermediate_size": 449}, "does not divide by 2"),
        (ZeroExperts(expected=3), {}, "does not divide by 3"),
        (Shortcut(experts_per_token=3), {}, "does not divide by 6"),
        (Shortcut(), {"num_hidden_layers": 3}, "num_hidden_layers 3 do not make pairs"),
        (PlusPlus(), {"model_type": "mixtral"}, "no twin of 'mixtral'"),
        (TotalMixture(), {"model_type": "qwen2"}, "no mixture twin of 'qwen2'"),
    ],
    ids=str,
)
def test_what_does_not_fit_says_why(technique: Technique, architecture: Any, said: str, context_of: Contexts):
    assert said in str(technique.skip_reason(context_of(technique, **architecture)))


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (FineGrained, {"experts_per_token": 9}, "experts_per_token must lie between 1 and the 8"),
        (FineGrained, {"segments": 0}, "segments must be at least 1"),
        (FineGrained, {"shared": 8}, "shared must lie between 0 and 7"),
        (PlusPlus, {"balance": -0.1}, "balance must not be negative"),
        (PlusPlus, {"constants": 0}, "constants must be at least 1"),
        (PlusPlus, {"zero_cost": 0.0}, "zero_cost must lie above 0"),
        (ZeroExperts, {"expected": 4}, "expected must lie between 1 and experts_per_token"),
        (ZeroExperts, {"zero_experts": 0}, "zero_experts must be at least 1"),
        (ZeroExperts, {"rate": 0.0}, "rate must be above 0"),
        (Shortcut, {"experts_per_token": 0}, "experts_per_token must lie"),
        (PreAttentionRouter, {"experts_per_token": 0}, "experts_per_token must lie"),
        (WideNet, {"experts_per_token": 0}, "experts_per_token must lie"),
        (TotalMixture, {"experts_per_token": 0}, "experts_per_token must lie"),
        (Stochastic, {"experts": 1}, "experts must be at least 2"),
        (Stochastic, {"weight": -1.0}, "weight must not be negative"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(kind: type, options: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        kind(**options)


TRAINED = [technique for technique, _, _ in SIZES.values() if isinstance(technique, ExpertsTechnique)]


@pytest.mark.parametrize("technique", TRAINED, ids=lambda item: type(item).__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_learns_a_repeated_batch_in_both_precisions(technique: Technique, dtype: str, context_of: Contexts):
    from harness.models.architecture import build

    architecture = technique.configure(context_of(num_hidden_layers=2).model.architecture)
    model = build(architecture, {"dtype": dtype, "attn_implementation": "sdpa"}, "cpu", 0)
    tokens = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with torch.no_grad():
        before = model(tokens, labels=tokens).loss.item()
    model.train()
    for _ in range(12):
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert model(tokens, labels=tokens).loss.item() < before - 0.2


@pytest.mark.parametrize("mixture", [Mixture(), FineGrained()], ids=lambda item: type(item).__name__)
def test_every_kernel_computes_the_same(mixture: Technique, context_of: Contexts):
    tokens, found = torch.randint(0, 256, (2, 20)), {}
    for name in ("eager", "grouped_mm", "batched_mm"):
        kernel = ExpertsKernel(name)
        context = context_of(mixture, kernel)
        assert kernel.skip_reason(context) is None
        model = kernel.transform(context.model.load(context), context)
        assert model.config._experts_implementation == name
        assert kernel.evidence(model) == f"experts run by {name}"
        with torch.no_grad():
            found[name] = model(tokens).logits
    assert torch.allclose(found["eager"], found["grouped_mm"], atol=1e-5)
    assert torch.allclose(found["eager"], found["batched_mm"], atol=1e-5)


def test_a_kernel_without_experts_says_what_to_stack(context_of: Contexts):
    assert "stack it with a mixture" in str(ExpertsKernel().skip_reason(context_of(ExpertsKernel())))
    with_window = context_of(
        ExpertsKernel(), model_type="deepseek_v3", n_routed_experts=8, first_k_dense_replace=LAYERS
    )
    assert "no experts" in str(ExpertsKernel().skip_reason(with_window))


@pytest.mark.parametrize(
    "architecture",
    [
        {"model_type": "mixtral", "num_local_experts": 8},
        {"model_type": "olmoe", "num_experts": 8},
        {"model_type": "deepseek_v2", "n_routed_experts": 8, "num_hidden_layers": 4, "first_k_dense_replace": 1},
        {"model_type": "harness_decoder", "feed_forward": [{"kind": "dense"}, {"kind": "mixture", "experts": 2}]},
    ],
    ids=lambda item: item["model_type"],
)
def test_models_with_experts_are_known(architecture: dict[str, Any]):
    assert has_experts(architecture)
