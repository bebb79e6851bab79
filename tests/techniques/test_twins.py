"""Recurrent, latent and differential mixers against transformers' classes with the same weights, and as techniques."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import EXTRAS, Run, make
from harness.decoder.recurrence import decayed, weighted_averages
from harness.meters.operators import operators_of
from harness.models.architecture import configuration
from harness.run.closed_forms import forms_of
from harness.run.tensors import reachable_bytes
from harness.techniques.attention.differential import Differential
from harness.techniques.attention.latent import Latent
from harness.techniques.recurrent.gated_delta import GatedDelta
from harness.techniques.recurrent.lightning import Lightning
from harness.techniques.recurrent.mamba2 import Mamba2
from harness.techniques.recurrent.rwkv import Rwkv
from harness.workloads.generate import Generate
from harness.workloads.prefill import Prefill
from harness.workloads.train_step import TrainStep

ALL: dict[str, Any] = {
    "latent": Latent(),
    "latent queries": Latent(key_value_rank=48, rotary_width=8, query_rank=40),
    "differential": Differential(),
    "mamba2": Mamba2(),
    "rwkv": Rwkv(),
    "lightning": Lightning(),
    "gated_delta": GatedDelta(),
    "gated_delta alone": GatedDelta(full_every=0),
}
SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
LENGTH = 150  # three chunks


def mixer(layer: int = 1, eps: float = 1e-6, **part: Any) -> tuple[Any, DecoderConfig]:
    """A decoder's mixer by itself, and its configuration."""
    config = DecoderConfig(**SIZES, rms_norm_eps=eps, mixer=part)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return make("mixer", config, layer, make("position", config)), config


def copy(pairs: list[tuple[Any, Tensor]]) -> None:
    """Give ours what theirs holds."""
    with torch.no_grad():
        for ours, theirs in pairs:
            assert ours.shape == theirs.shape
            ours.copy_(theirs)


def theirs_of(model_type: str, part_class: Any, layer: int = 1, **facts: Any) -> Any:
    """One of transformers' modules with random weights, constants included."""
    config = configuration({"model_type": model_type, **facts})
    config._attn_implementation = "sdpa"
    torch.manual_seed(1)
    found = part_class(config, layer)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return found, config


def hidden() -> Tensor:
    return torch.randn(2, LENGTH, SIZES["hidden_size"], generator=torch.Generator().manual_seed(3))


def run_of(tokens: int) -> Run:
    return Run(0, torch.arange(tokens)[None])


def compare(ours: Any, theirs: Tensor) -> None:
    with torch.no_grad():
        found = ours(hidden(), run_of(LENGTH), 0)
    assert theirs.std() > 1e-3
    assert torch.allclose(found, theirs, atol=1e-5 * max(1.0, theirs.abs().max().item()) * 5)


def causal_mask() -> Tensor:
    return torch.full((LENGTH, LENGTH), -torch.inf).triu(1)[None, None]


def test_the_latent_mixer_is_deepseeks():
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

    ours, _ = mixer(kind="latent", key_value_rank=24, rotary_width=8, query_rank=20)
    theirs, config = theirs_of(
        "deepseek_v3",
        DeepseekV3Attention,
        **SIZES,
        num_key_value_heads=4,
        kv_lora_rank=24,
        q_lora_rank=20,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
        rope_interleave=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    copy(
        [
            (ours.compress_query.weight, theirs.q_a_proj.weight),
            (ours.query_norm.weight, theirs.q_a_layernorm.weight),
            (ours.query.weight, theirs.q_b_proj.weight),
            (ours.compress.weight, theirs.kv_a_proj_with_mqa.weight),
            (ours.latent_norm.weight, theirs.kv_a_layernorm.weight),
            # Theirs follow head by head, key then value, and so do ours.
            (ours.expand.weight, theirs.kv_b_proj.weight),
            (ours.output.weight, theirs.o_proj.weight),
        ]
    )
    turns = DeepseekV3RotaryEmbedding(config)(hidden(), torch.arange(LENGTH)[None])
    with torch.no_grad():
        compare(ours, theirs(hidden(), turns, causal_mask())[0])


def test_the_differential_mixer_is_diffllamas():
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention, DiffLlamaRotaryEmbedding

    ours, _ = mixer(kind="differential")
    facts = {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rms_norm_eps": 1e-6}
    theirs, config = theirs_of("diffllama", DiffLlamaAttention, **facts)
    copy(
        [
            (ours.query.weight, theirs.q_proj.weight),
            (ours.key.weight, theirs.k_proj.weight),
            (ours.value.weight, theirs.v_proj.weight),
            (ours.output.weight, theirs.o_proj.weight),
            (ours.first_query, theirs.lambda_q1),
            (ours.first_key, theirs.lambda_k1),
            (ours.second_query, theirs.lambda_q2),
            (ours.second_key, theirs.lambda_k2),
        ]
    )
    turns = DiffLlamaRotaryEmbedding(config)(hidden(), torch.arange(LENGTH)[None])
    with torch.no_grad():
        compare(ours, theirs(hidden(), turns, causal_mask())[0])


def test_the_lightning_mixer_is_minimaxs():
    from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

    ours, _ = mixer(kind="lightning")
    theirs, _ = theirs_of(
        "minimax", MiniMaxLightningAttention, **SIZES, num_key_value_heads=4, layer_types=["linear_attention"] * 4
    )
    query, key, value = theirs.qkv_proj.weight.unflatten(0, (4, 3, 16)).unbind(1)
    theirs.norm.variance_epsilon = 1e-6
    copy(
        [
            (ours.query.weight, query.flatten(0, 1)),
            (ours.key.weight, key.flatten(0, 1)),
            (ours.value.weight, value.flatten(0, 1)),
            (ours.gate.weight, theirs.output_gate.weight),
            (ours.norm.weight, theirs.norm.weight),
            (ours.output.weight, theirs.out_proj.weight),
        ]
    )
    with torch.no_grad():
        compare(ours, theirs(hidden(), None, None)[0])


def test_the_gated_delta_mixer_is_qwens():
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    ours, _ = mixer(kind="gated_delta", key_width=12, value_width=24)
    theirs, _ = theirs_of(
        "qwen3_5_text",
        Qwen3_5GatedDeltaNet,
        **SIZES,
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=12,
        linear_value_head_dim=24,
        layer_types=["linear_attention"] * 4,
    )
    query, key, value = theirs.in_proj_qkv.weight.split([48, 48, 96])
    copy(
        [
            (ours.query.weight, query),
            (ours.key.weight, key),
            (ours.value.weight, value),
            (ours.gate.weight, theirs.in_proj_z.weight),
            (ours.strength.weight, theirs.in_proj_b.weight),
            (ours.step.weight, theirs.in_proj_a.weight),
            (ours.log_rate, theirs.A_log),
            (ours.step_bias, theirs.dt_bias),
            (ours.convolution.weight, theirs.conv1d.weight),
            (ours.norm.weight, theirs.norm.weight),
            (ours.output.weight, theirs.out_proj.weight),
        ]
    )
    with torch.no_grad():
        compare(ours, theirs(hidden()))


def test_the_mamba2_mixer_is_transformers():
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    ours, _ = mixer(kind="mamba2", state_size=16, head_width=32)
    theirs, _ = theirs_of(
        "mamba2",
        Mamba2Mixer,
        hidden_size=64,
        num_hidden_layers=4,
        num_heads=4,
        head_dim=32,
        state_size=16,
        n_groups=1,
        layer_norm_epsilon=1e-6,
        chunk_size=32,
    )
    copy(
        [
            (ours.input.weight, theirs.in_proj.weight),
            (ours.convolution.weight, theirs.conv1d.weight),
            (ours.convolution.bias, theirs.conv1d.bias),
            (ours.log_rate, theirs.A_log),
            (ours.step_bias, theirs.dt_bias),
            (ours.skip, theirs.D),
            (ours.norm.weight, theirs.norm.weight),
            (ours.output.weight, theirs.out_proj.weight),
        ]
    )
    with torch.no_grad():
        compare(ours, theirs(hidden()))


def test_both_mixings_of_rwkv_are_transformers():
    from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward, RwkvSelfAttention

    from harness.decoder.blocks.rwkv import ChannelMix

    ours, config = mixer(kind="rwkv")
    theirs, _ = theirs_of("rwkv", RwkvSelfAttention, hidden_size=64, num_hidden_layers=4, intermediate_size=128)
    copy(
        [
            (ours.decay, theirs.time_decay),
            (ours.bonus, theirs.time_first),
            (ours.key_shift, theirs.time_mix_key.flatten()),
            (ours.value_shift, theirs.time_mix_value.flatten()),
            (ours.gate_shift, theirs.time_mix_receptance.flatten()),
            (ours.key.weight, theirs.key.weight),
            (ours.value.weight, theirs.value.weight),
            (ours.gate.weight, theirs.receptance.weight),
            (ours.output.weight, theirs.output.weight),
        ]
    )
    with torch.no_grad():
        compare(ours, theirs(hidden())[0])
    channel = ChannelMix(config, 1)
    theirs, _ = theirs_of("rwkv", RwkvFeedForward, hidden_size=64, num_hidden_layers=4, intermediate_size=128)
    copy(
        [
            (channel.key_shift, theirs.time_mix_key.flatten()),
            (channel.gate_shift, theirs.time_mix_receptance.flatten()),
            (channel.key.weight, theirs.key.weight),
            (channel.value.weight, theirs.value.weight),
            (channel.gate.weight, theirs.receptance.weight),
        ]
    )
    with torch.no_grad():
        compare(channel, theirs(hidden())[0])


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 150),
    cut=st.integers(0, 150),
    groups=st.sampled_from([1, 2]),
    rate=st.floats(0, 3),
    corrected=st.booleans(),
    seed=st.integers(0, 99),
)
def test_chunks_compute_the_recurrence(tokens: int, cut: int, groups: int, rate: float, corrected: bool, seed: int):
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    heads = 2
    if corrected:
        groups = heads
    query, key, value = random(2, groups, tokens, 5), random(2, groups, tokens, 5), random(2, heads, tokens, 3)
    key = key / key.norm(dim=-1, keepdim=True)
    decay, strength = -rate * random(2, heads, tokens).abs(), random(2, heads, tokens).sigmoid()
    state, outputs = torch.zeros(2, heads, 5, 3, dtype=torch.float64), []
    for place in range(tokens):
        state = state * decay[:, :, place, None, None].exp()
        now = value[:, :, place]
        if corrected:
            now = strength[:, :, place, None] * (now - (key[:, :, place, :, None] * state).sum(2))
        state = state + key[:, :, place, :, None] * now[:, :, None]
        outputs.append((query[:, :, place, :, None] * state).sum(2))
    expected = torch.stack(outputs, 2)
    plain = [item.float() for item in (query, key, value, decay, strength)]
    found, matrix = [], None
    for part in (slice(0, cut), slice(cut, None)):
        query, key, value, decay, strength = (item[:, :, part] for item in plain)
        if value.shape[2]:
            read, matrix = decayed(query, key, value, decay, matrix, strength if corrected else None)
            found.append(read)
    assert torch.allclose(torch.cat(found, 2), expected.float(), atol=3e-4)
    assert matrix is not None
    assert torch.allclose(matrix, state.float(), atol=3e-4)


@settings(max_examples=25)
@given(tokens=st.integers(1, 90), cut=st.integers(0, 90), size=st.floats(0.1, 40), seed=st.integers(0, 99))
def test_doubling_computes_the_averages(tokens: int, cut: int, size: float, seed: int):
    draw = torch.Generator().manual_seed(seed)
    key, value = (torch.randn(2, tokens, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    key, decay, bonus = key * size, torch.rand(4, generator=draw).double() * 3, torch.randn(4, generator=draw).double()
    place = torch.arange(tokens)
    gone = (place[:, None] - 1 - place[None])[None, ..., None]
    exponent = (key[:, None] - gone * decay).masked_fill(gone < 0, -torch.inf)
    exponent = torch.where(gone == -1, key[:, None] + bonus, exponent)
    expected = (exponent.softmax(2) * value[:, None]).sum(2)
    found, state = [], None
    for part in (slice(0, cut), slice(cut, None)):
        if key[:, part].shape[1]:
            read, state = weighted_averages(key[:, part], value[:, part], decay, bonus, state)
            found.append(read)
    assert torch.allclose(torch.cat(found, 1), expected.float(), atol=1e-4)


def test_the_gradient_of_doubling_is_that_of_the_averages():
    torch.manual_seed(0)
    key, value = (torch.randn(1, 9, 3, requires_grad=True) for _ in range(2))
    decay, bonus = torch.rand(3).requires_grad_(), torch.randn(3).requires_grad_()
    place = torch.arange(9)
    gone = (place[:, None] - 1 - place[None])[None, ..., None]
    exponent = torch.where(gone == -1, key[:, None] + bonus, key[:, None] - gone * decay)
    dense = (exponent.masked_fill(gone < -1, -torch.inf).softmax(2) * value[:, None]).sum(2)
    weights, inputs = torch.randn_like(dense), (key, value, decay, bonus)
    expected = torch.autograd.grad((dense * weights).sum(), inputs)
    found = torch.autograd.grad((weighted_averages(*inputs)[0] * weights).sum(), inputs)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_a_technique_runs_in_bfloat16_and_ends_as_in_float32(name: str, context_of: Callable[..., Any]):
    context = context_of(ALL[name])
    model = context.model.load(context)
    tokens = torch.randint(0, 256, (2, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full = model(input_ids=tokens, use_cache=False).logits
        half = model.to(torch.bfloat16)(input_ids=tokens, use_cache=False).logits
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(full.flatten(), half.float().flatten(), dim=0) > 0.99


@pytest.mark.parametrize("name", ALL)
def test_a_cache_in_bfloat16_holds_what_the_closed_form_says(name: str, context_of: Callable[..., Any]):
    context = context_of(ALL[name])
    model = context.model.load(context).to(torch.bfloat16)
    cache, forms = DynamicCache(config=model.config), forms_of(model)
    assert forms is not None
    for tokens in (70, 1, 9):
        with torch.no_grad():
            model(input_ids=torch.zeros(3, tokens, dtype=torch.long), past_key_values=cache, use_cache=True)
    assert reachable_bytes(cache) == 3 * forms.held_bytes(80, 2)


@pytest.mark.parametrize("name", ALL)
def test_every_workload_runs(name: str, context_of: Callable[..., Any]):
    technique, windows = ALL[name], 2
    inference: dict[str, Any] = {"batch_size": 2, "prompt_tokens": 33, "quality_windows": windows}
    for workload in (
        TrainStep(budget_tokens=2048, held_out_windows=windows),
        Prefill(**inference),
        Generate(**inference, new_tokens=5),
    ):
        context = context_of(technique, workload=workload)
        session = workload.prepare(context.model.load(context), context)
        session.before_step()
        session.step()
        assert session.work().model_flops
        if not isinstance(workload, TrainStep):
            assert session.held_bytes()["kv_cache_bytes"] > 0


@pytest.mark.parametrize("name", ALL)
def test_every_operator_of_training_is_counted(name: str, context_of: Callable[..., Any]):
    workload = TrainStep(budget_tokens=2048, held_out_windows=2)
    context = context_of(ALL[name], workload=workload)
    session = workload.prepare(context.model.load(context), context)
    operators, _ = operators_of(session, "cpu")
    assert [operator.name for operator in operators if operator.kind == "uncounted"] == []
    required = session.work().model_flops
    assert required
    assert 0.4 < required / sum(operator.flops for operator in operators) <= 1


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_grouped_convolutions_backward_costs_two_forwards(groups: int, transposed: bool):
    layer = (torch.nn.ConvTranspose1d if transposed else torch.nn.Conv1d)(4, 4, 3, groups=groups)
    inputs = torch.randn(2, 4, 9, requires_grad=True)

    class Backward:
        def before_step(self) -> None:
            with FlopCounterMode(display=False) as counter:
                self.loss = layer(inputs).sum()
            self.forward = counter.get_total_flops()

        def step(self) -> None:
            self.loss.backward()

    session: Any = Backward()
    operators, _ = operators_of(session, "cpu")
    assert sum(operator.flops for operator in operators) == 2 * session.forward > 0


@pytest.mark.parametrize("name", ALL)
def test_generating_with_a_cache_says_what_recomputing_says(name: str, context_of: Callable[..., Any]):
    context = context_of(ALL[name])
    model = context.model.load(context)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)  # so that the greedy choice is clear
    tokens = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))
    found = model.generate(
        tokens, past_key_values=DynamicCache(config=model.config), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    for _ in range(12):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(input_ids=tokens, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, tokens)


def test_a_latent_cache_is_as_small_as_published(context_of: Callable[..., Any]):
    context = context_of(Latent())
    forms = forms_of(context.model.load(context))
    assert forms is not None
    # Section 2.1.4, table 1: 4.5 heads' widths in each layer, of the 2 x 4 that all keys and values are here.
    assert forms.held_bytes(1, 1) == 4 * 4.5 * 32


def test_what_is_recurrent_holds_the_same_of_any_length(context_of: Callable[..., Any]):
    for technique in (Mamba2(), Rwkv(), Lightning(full_every=0), GatedDelta(full_every=0)):
        context = context_of(technique)
        forms = forms_of(context.model.load(context))
        assert forms is not None
        assert forms.held_bytes(10, 4) == forms.held_bytes(100_000, 4) > 0
        assert forms.mixing(1, 10) <= forms.mixing(1, 10_000) == forms.mixing(1, 100_000)


@pytest.mark.parametrize("technique", [Lightning(full_every=2), GatedDelta(full_every=4)], ids=["2", "4"])
def test_every_so_many_layers_keep_their_attention(technique: Any, context_of: Callable[..., Any]):
    context = context_of(technique)
    model = context.model.load(context)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 8, dtype=torch.long), past_key_values=cache, use_cache=True)
    full = [place for place in range(4) if (place + 1) % technique.full_every == 0]
    assert [place for place in range(4) if place not in getattr(cache, EXTRAS)] == full
    assert [place for place, layer in enumerate(cache.layers) if getattr(layer, "keys", None) is not None] == full


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: Latent(rotary_width=3), "rotary_width must be even"),
        (lambda: Latent(key_value_rank=0), "key_value_rank must be at least 1"),
        (lambda: Lightning(full_every=1), "full_every must be 0"),
        (lambda: Mamba2(expand=0), "expand must be at least 1"),
        (lambda: Rwkv(expand=0), "expand must be at least 1"),
    ],
)
def test_an_option_that_cannot_be_is_named(make_it: Callable[[], Any], said: str):
    with pytest.raises(ValueError, match=said):
        make_it()


@pytest.mark.parametrize(
    ("technique", "change", "said"),
    [
        (Differential(), {"num_key_value_heads": 1}, "cannot be paired"),
        (Mamba2(head_width=96), {}, "does not divide by head_width"),
        (Rwkv(), {"model_type": "gpt2"}, "no twin"),
    ],
)
def test_what_does_not_fit_is_skipped(technique: Any, change: Any, said: str, context_of: Callable[..., Any]):
    assert said in technique.skip_reason(context_of(technique, **change))
