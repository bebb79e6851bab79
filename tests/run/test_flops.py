"""Closed forms of operations and bytes, against what torch counts and what a cache holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from harness.models.hf import HF
from harness.run.closed_forms import forms_of
from harness.run.flops import attention_backward_flops, attention_forward_flops, cost_of
from harness.run.tensors import model_bytes, reachable_bytes
from harness.techniques.attention.grouped_query import GroupedQuery
from harness.techniques.moe.mixture import Mixture
from harness.techniques.peft.lora import Lora
from harness.workloads.decode import Decode
from harness.workloads.generate import Generate
from harness.workloads.prefill import Prefill

TECHNIQUES = {
    "plain": (),
    "gqa": (GroupedQuery(2),),
    "mqa": (GroupedQuery(1),),
    "moe": (Mixture(8, 2),),
    "moe of gqa": (GroupedQuery(2), Mixture(4, 1)),
}
SHAPES = {"wide heads": {"head_dim": 48}, "tied": {"tie_word_embeddings": True}, "deep": {"num_hidden_layers": 5}}
CASES = [*((name, {}) for name in TECHNIQUES), *(("gqa", shape) for shape in SHAPES.values())]
BATCH, LENGTH = 2, 12
TOKENS = BATCH * LENGTH


def loaded(context: Any) -> Any:
    """The model with plain attention, whose products torch can see one by one; experts one after another."""
    model = context.model.load(context)
    for technique in context.techniques:
        model = technique.transform(model, context)
    model.config._experts_implementation = "eager"
    return model


def counted(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def batch() -> torch.Tensor:
    return torch.randint(256, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_forward_flops_equal_torchs_count(name: str, shape: dict[str, Any], context_of: Callable[..., Any]):
    model = loaded(context_of(*TECHNIQUES[name], attention="eager", **{"num_hidden_layers": 2, **shape}))
    with torch.no_grad():
        found = counted(lambda: model(input_ids=batch(), use_cache=False))
    # Plain attention computes the masked half too, so that every token meets all positions.
    assert found == cost_of(model).forward_flops(TOKENS, (LENGTH, LENGTH))


@pytest.mark.parametrize("name", TECHNIQUES)
def test_backward_flops_equal_torchs_count(name: str, context_of: Callable[..., Any]):
    model = loaded(context_of(*TECHNIQUES[name], attention="eager", num_hidden_layers=2)).train()
    loss = model(input_ids=batch(), labels=batch(), use_cache=False).loss
    assert counted(loss.backward) == cost_of(model).backward_flops(TOKENS, (LENGTH, LENGTH))


def test_frozen_weights_need_no_gradient_of_their_own(context_of: Callable[..., Any]):
    model = loaded(context_of(Lora(r=4), attention="eager")).train()
    loss = model(input_ids=batch(), labels=batch(), use_cache=False).loss
    layer = model.base_model.model.model.layers[0].self_attn
    # Nothing below the first layer is trained: no gradient flows into its frozen projections, nor through their
    # adapters' first factors. The closed form counts those few as well.
    unneeded = sum(
        projection.base_layer.weight.numel() + projection.lora_A["default"].weight.numel()
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    assert counted(loss.backward) == cost_of(model).backward_flops(TOKENS, (LENGTH, LENGTH)) - 2 * TOKENS * unneeded


def test_adapters_add_their_own_products(context_of: Callable[..., Any]):
    plain, adapted = loaded(context_of(attention="eager")), loaded(context_of(Lora(r=4), attention="eager"))
    cost = cost_of(adapted)
    assert cost.trained_matmul_weights == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert cost.active_matmul_weights == cost_of(plain).active_matmul_weights + cost.trained_matmul_weights
    with torch.no_grad():
        found = counted(lambda: adapted(input_ids=batch(), use_cache=False))
    assert found == cost.forward_flops(TOKENS, (LENGTH, LENGTH))


def test_a_mixture_keeps_the_active_weights_but_for_its_router(context_of: Callable[..., Any]):
    dense, mixture = loaded(context_of()), loaded(context_of(Mixture(8, 2)))
    router = dense.config.num_hidden_layers * dense.config.hidden_size * 8
    assert cost_of(mixture).active_matmul_weights == cost_of(dense).active_matmul_weights + router
    assert sum(p.numel() for p in mixture.parameters()) > 2 * sum(p.numel() for p in dense.parameters())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("plain", torch.float32), ("plain", torch.bfloat16), ("gqa", torch.float32), ("mqa", torch.bfloat16)],
    ids=str,
)
def test_cache_bytes_equal_what_a_cache_holds(name: str, dtype: torch.dtype, context_of: Callable[..., Any]):
    model = loaded(context_of(*TECHNIQUES[name], num_hidden_layers=2)).to(dtype)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=batch(), past_key_values=cache, use_cache=True)
    forms = forms_of(model)
    assert forms is not None
    assert reachable_bytes(cache) == BATCH * forms.held_bytes(LENGTH, dtype.itemsize)


def test_touched_bytes_are_the_weights_less_the_embeddings(context_of: Callable[..., Any]):
    model = loaded(context_of())
    apart = model.get_input_embeddings().weight.nbytes + sum(buffer.nbytes for buffer in model.buffers())
    assert cost_of(model).touched_bytes == model_bytes(model) - apart


def test_tied_embeddings_are_read_once_as_the_output_layer(context_of: Callable[..., Any]):
    model = loaded(context_of(tie_word_embeddings=True))
    assert cost_of(model).touched_bytes == sum(p.nbytes for p in model.parameters())


#: Published active parameters per token, and whether the publication counts the input embeddings among them.
ACTIVE = {
    "mixtral_8x7b": (12.9e9, True),
    "olmoe_1b_7b": (1.3e9, True),
    "deepseek_v2_lite": (2.4e9, False),
    "llama3_1_8b": (8.03e9, True),
}


@pytest.mark.parametrize("name", ACTIVE)
def test_active_weights_are_those_that_were_published(name: str):
    path = Path(__file__).parents[2] / "conf" / "model" / f"{name}.yaml"
    shape = yaml.safe_load(path.read_text())["architecture"]
    model = HF(architecture=shape, dtype="bfloat16").empty(())
    published, with_embeddings = ACTIVE[name]
    embeddings = model.get_input_embeddings().weight.numel() if with_embeddings else 0
    assert cost_of(model).active_matmul_weights + embeddings == pytest.approx(published, rel=0.03)


def test_latent_attention_counts_the_widths_that_meet():
    shape = yaml.safe_load((Path(__file__).parents[2] / "conf/model/deepseek_v2_lite.yaml").read_text())["architecture"]
    forms = forms_of(HF(architecture={**shape, "num_hidden_layers": 2}).empty(()))
    assert forms is not None
    assert forms.mixing(1, 1) == 2 * 16 * (128 + 64 + 128)


def test_a_window_of_attention_has_no_closed_form(context_of: Callable[..., Any]):
    model = loaded(context_of(model_type="mistral", sliding_window=16))
    assert cost_of(model).forward_flops(1, (1, 1)) is None


def flops_of_steps(workload: Any, context: Any, steps: int) -> tuple[int, Any]:
    """What torch counts in `steps` steps, and the session."""
    model = loaded(context)
    session = workload.prepare(model, context)
    found = 0
    for _ in range(steps):
        session.before_step()
        with torch.no_grad():
            found += counted(session.step)
    return found, session


def test_a_prefill_step_claims_no_more_than_it_does(context_of: Callable[..., Any]):
    workload = Prefill(batch_size=BATCH, prompt_tokens=LENGTH, quality_windows=2)
    found, session = flops_of_steps(workload, context_of(workload=workload, attention="eager", num_hidden_layers=2), 1)
    masked = masked_half(session.model)
    assert session.work().model_flops == found - masked


def test_a_sequence_of_decode_steps_claims_what_it_does(context_of: Callable[..., Any]):
    workload = Decode(batch_size=BATCH, prompt_tokens=LENGTH, new_tokens=8, quality_windows=2)
    found, session = flops_of_steps(workload, context_of(workload=workload, attention="eager", num_hidden_layers=2), 8)
    assert 8 * session.work().model_flops == found


def test_a_request_claims_no_more_than_it_does(context_of: Callable[..., Any]):
    workload = Generate(batch_size=BATCH, prompt_tokens=LENGTH, new_tokens=8, quality_windows=2)
    found, session = flops_of_steps(workload, context_of(workload=workload, attention="eager", num_hidden_layers=2), 1)
    masked = masked_half(session.model)
    assert session.work().model_flops == found - masked


def masked_half(model: Any) -> float:
    """FLOPs of the half of attention that a causal mask takes away."""
    forms = forms_of(model)
    assert forms is not None
    return 2 * TOKENS * (forms.mixing(LENGTH, LENGTH) - forms.mixing(1, LENGTH))


SIZES = st.integers(1, 6)


@given(batch=SIZES, groups=SIZES, shared=SIZES, queries=SIZES, keys=SIZES, width=SIZES, value_width=SIZES)
def test_attention_flops_are_those_of_the_products_it_is_made_of(
    batch: int, groups: int, shared: int, queries: int, keys: int, width: int, value_width: int
):
    heads = groups * shared
    query = torch.ones(batch, heads, queries, width, requires_grad=True)
    key = torch.ones(batch, groups, keys, width, requires_grad=True)
    value = torch.ones(batch, groups, keys, value_width, requires_grad=True)
    shapes = (query.shape, key.shape, value.shape)
    many = [tensor.repeat_interleave(shared, 1) for tensor in (key, value)]
    with FlopCounterMode(display=False) as forward:
        found = (query @ many[0].transpose(2, 3)).softmax(-1) @ many[1]
    assert attention_forward_flops(*shapes) == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        found.sum().backward()
    # A fused kernel keeps no scores: it computes them again first.
    scores = 2 * batch * heads * queries * keys * width
    assert attention_backward_flops(*shapes) == backward.get_total_flops() + scores


def test_dense_flops_differ_from_causal_ones_by_the_masked_half_of_attention(context_of: Callable[..., Any]):
    workload = Prefill(batch_size=BATCH, prompt_tokens=LENGTH, quality_windows=2)
    found, session = flops_of_steps(workload, context_of(workload=workload, attention="eager", num_hidden_layers=2), 1)
    masked = masked_half(session.model)
    work = session.work()
    assert work.dense_model_flops == found == work.model_flops + masked


def test_work_without_a_causal_closed_form_has_no_dense_one(context_of: Callable[..., Any]):
    workload = Prefill(batch_size=BATCH, prompt_tokens=LENGTH, quality_windows=2)
    context = context_of(workload=workload, model_type="mistral", sliding_window=16)
    work = workload.prepare(context.model.load(context), context).work()
    assert (work.model_flops, work.dense_model_flops) == (None, None)
