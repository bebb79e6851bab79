"""Ternary layers against the papers' equations and transformers' own, and the bytes that packing leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.integrations.bitnet import AutoBitLinear

from harness.decoder.linears.ternary import TernaryLinear, pack, ternary_of, unpack
from harness.decoder.mixers.hgrn import scan
from harness.run.evidence import fingerprint
from harness.run.flops import active_parameters, cost_of
from harness.run.tensors import model_bytes
from harness.techniques.ternary.bitcpm import BitCPM
from harness.techniques.ternary.bitnet import BitNet
from harness.techniques.ternary.matmul_free import MatMulFree
from harness.workloads.prefill import Prefill

SEEDS = st.integers(0, 2**31)
TECHNIQUES = {"bitnet": BitNet(), "bitcpm": BitCPM(32), "matmul_free": MatMulFree()}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(seed: int = 0, inputs: int = 24, outputs: int = 10, **options: Any) -> TernaryLinear:
    torch.manual_seed(seed)
    layer = TernaryLinear(inputs, outputs, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def loaded(technique: Any, context_of: Callable[..., Any], workload: Any = None) -> Any:
    context = context_of(technique, workload=workload)
    torch.manual_seed(0)
    return technique.transform(context.model.load(context), context)


@given(seed=SEEDS, outputs=st.integers(1, 5), inputs=st.integers(1, 17))
def test_what_is_packed_comes_back(seed: int, outputs: int, inputs: int):
    codes = torch.randint(-1, 2, (outputs, inputs), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes)
    assert packed.shape == (outputs, -(-inputs // 4))
    assert torch.equal(unpack(packed, inputs), codes.to(torch.int8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    seed=SEEDS,
    group=st.sampled_from([None, 4, 24]),
    bits=st.sampled_from([None, 8]),
    norm=st.booleans(),
    bias=st.booleans(),
)
def test_packing_changes_no_bit(seed: int, group: Any, bits: Any, norm: bool, bias: bool, dtype: torch.dtype):
    layer = layer_of(seed, group=group, activation_bits=bits, normalized=norm, bias=bias).to(dtype)
    inputs = random(3, 5, 24, seed=seed).to(dtype)
    with torch.no_grad():
        assert torch.equal(layer(inputs), layer.packed()(inputs))


@given(seed=SEEDS)
def test_a_matrix_is_rounded_as_transformers_does(seed: int):
    layer = layer_of(seed, activation_bits=8)
    theirs = AutoBitLinear(24, 10, bias=False, online_quant=True)
    theirs.weight.data.copy_(layer.weight)
    inputs = random(3, 24, seed=seed)
    with torch.compiler.set_stance("force_eager"):
        assert torch.allclose(layer(inputs), theirs(inputs), atol=1e-4)


@given(seed=SEEDS, group=st.sampled_from([2, 3, 6]))
def test_each_group_has_a_scale_of_its_own(seed: int, group: int):
    weight = random(4, 6, seed=seed)
    codes, scales = ternary_of(weight, group)
    for row in range(4):
        for column in range(6):
            part = weight[row, column // group * group :][:group]
            scale = sum(abs(each) for each in part.tolist()) / group
            assert scales[row, column // group].item() == pytest.approx(scale, rel=1e-5)
            assert codes[row, column].item() == max(-1, min(1, round(weight[row, column].item() / scale)))


def test_gradients_pass_as_if_nothing_were_rounded():
    layer, inputs, outer = layer_of(activation_bits=8), random(7, 24).requires_grad_(), random(7, 10, seed=1)
    layer(inputs).backward(outer)
    codes, scales = ternary_of(layer.weight.detach(), None)
    step = inputs.detach().abs().amax(-1, keepdim=True) / 127
    assert torch.allclose(inputs.grad, outer @ (codes * scales), atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(layer.weight.grad, outer.T @ ((inputs / step).round() * step), atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TECHNIQUES)
def test_inference_holds_two_bits_a_weight_and_computes_the_same(name: str, context_of: Callable[..., Any]):
    trained = loaded(TECHNIQUES[name], context_of).eval()
    packed = loaded(TECHNIQUES[name], context_of, Prefill())
    tokens = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(trained(tokens).logits, packed(tokens).logits)
    layers = [module for module in trained.modules() if isinstance(module, TernaryLinear)]
    weights = sum(layer.weight.numel() for layer in layers)
    scales = sum(ternary_of(layer.weight, layer.group)[1].numel() for layer in layers)
    assert model_bytes(packed) == model_bytes(trained) - 4 * weights + weights // 4 + 4 * scales
    before, after = cost_of(trained), cost_of(packed)
    assert before.forward_flops(20, (1, 20)) == after.forward_flops(20, (1, 20))
    assert after.touched_bytes == before.touched_bytes - 4 * weights + weights // 4 + 4 * scales
    assert (
        active_parameters(packed) - active_parameters(trained)
        == fingerprint(packed).parameters - fingerprint(trained).parameters
    )
    assert fingerprint(packed).parameters == fingerprint(trained).parameters
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_a_model_is_made_ternary_over_its_own_weights(context_of: Callable[..., Any]):
    context = context_of(BitCPM(64))
    model = context.model.load(context)
    before = dict(model.named_parameters())
    model = BitCPM(64).transform(model, context)
    assert {name: id(item) for name, item in model.named_parameters()} == {name: id(it) for name, it in before.items()}
    assert type(model.lm_head) is torch.nn.Linear
    assert {type(module) for module in model.model.layers.modules()} & {torch.nn.Linear} == set()


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_ternary_model_learns(name: str, context_of: Callable[..., Any]):
    model = loaded(TECHNIQUES[name], context_of).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    tokens = torch.arange(64).repeat(4, 1) % 16
    losses = []
    for _ in range(12):
        losses.append(model(tokens, labels=tokens).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.8 * losses[0].item()


@given(seed=SEEDS, tokens=st.integers(1, 20))
def test_the_scan_is_the_recurrence_and_so_are_its_gradients(seed: int, tokens: int):
    forget, taken = random(2, tokens, 3, seed=seed).double().sigmoid(), random(2, tokens, 3, seed=seed + 1).double()
    forget.requires_grad_()
    taken.requires_grad_()
    state, states = torch.zeros(2, 3, dtype=torch.double), []
    for place in range(tokens):
        state = forget[:, place] * state + taken[:, place]
        states.append(state)
    found, expected, outer = scan(forget, taken), torch.stack(states, 1), random(2, tokens, 3, seed=seed + 2).double()
    assert torch.allclose(found, expected)
    ours, theirs = (torch.autograd.grad(each, (forget, taken), outer) for each in (found, expected))
    assert all(torch.allclose(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_recurrence_keeps_one_state_and_generates_with_it(context_of: Callable[..., Any]):
    model = loaded(MatMulFree(), context_of).double().eval()
    tokens = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
    found = model.generate(
        tokens, past_key_values=DynamicCache(config=model.config), do_sample=False, max_new_tokens=6, pad_token_id=0
    )
    for _ in range(6):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, tokens)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(lambda: BitCPM(0), "group"), (lambda: BitNet(1), "activation_bits"), (lambda: MatMulFree(9), "activation_bits")],
)
def test_options_that_cannot_be_are_refused(wrong: Callable[[], Any], said: str):
    with pytest.raises(ValueError, match=said):
        wrong()


def test_groups_that_do_not_divide_are_skipped(context_of: Callable[..., Any]):
    assert "hidden_size 128 does not divide" in str(BitCPM(48).skip_reason(context_of()))
