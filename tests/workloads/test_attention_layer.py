"""A mixer measured alone does what it does inside its model, for classes of transformers and parts of our own."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.interfaces import Context
from harness.models.architecture import build
from harness.models.hf import HF
from harness.plan.building import skip_reason
from harness.techniques.cache.static import Static
from harness.techniques.moe.mixture import Mixture
from harness.techniques.peft.lora import Lora
from harness.techniques.twin import with_part
from harness.workloads.attention import Attention, captured, mixers_of

SMALL = {"vocab_size": 256, "num_hidden_layers": 2, "hidden_size": 64}
HEADS = {**SMALL, "num_attention_heads": 4}
LLAMA = {"model_type": "llama", "intermediate_size": 96, "tie_word_embeddings": False, **HEADS}
LINEAR = {"key_head_dim": 16, "value_head_dim": 16, "num_key_heads": 2, "num_value_heads": 2}
HYBRID = {f"linear_{name}": size for name, size in LINEAR.items()}
CLASSES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "twin": with_part(LLAMA, "mixer", {"kind": "full"}),
    "bloom": {"model_type": "bloom", "vocab_size": 256, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "gpt2": {"model_type": "gpt2", "vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4},
    "gpt_neox": {"model_type": "gpt_neox", "intermediate_size": 96, **HEADS},
    "mamba2": {"model_type": "mamba2", **SMALL, "num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "rwkv": {"model_type": "rwkv", **SMALL, "attention_hidden_size": 64},
    "qwen3_5_text": {
        "model_type": "qwen3_5_text",
        **HEADS,
        **HYBRID,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "layer_types": ["linear_attention", "full_attention"],
    },
}
WITHOUT_SDPA = ("bloom", "mamba2", "rwkv")


def context_for(context_of: Callable[..., Context], architecture: dict[str, Any], workload: Attention) -> Context:
    return replace(context_of(workload=workload), model=HF(architecture=architecture))


def model_of(name: str) -> Any:
    attention = "eager" if name in WITHOUT_SDPA else "sdpa"
    model = build(CLASSES[name], {"dtype": "float32", "attn_implementation": attention}, "cpu", seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def stepped(session: Any, steps: int = 1) -> Any:
    for _ in range(steps):
        session.before_step()
        session.step()
    return session


@pytest.mark.parametrize("name", CLASSES)
def test_the_mixer_alone_does_what_it_does_in_its_model(name: str):
    model, tokens = model_of(name), torch.randint(0, 256, (2, 24))
    mixers = mixers_of(model)
    assert len(mixers) == 2
    for mixer in mixers:
        outputs: list[Any] = []
        handle = mixer.register_forward_hook(lambda _, __, output, into=outputs: into.append(output))
        arguments, options = captured(model, mixer, tokens)
        assert outputs == [], "the mixer itself was never run"
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
            mixer(*arguments, **options)
        handle.remove()
        inside, alone = (output if isinstance(output, torch.Tensor) else output[0] for output in outputs)
        assert inside.shape == (2, 24, 64)
        assert torch.allclose(inside, alone, atol=1e-6)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("layer", [0, 1])
def test_gradients_reach_the_input_and_every_parameter(name: str, layer: int, context_of: Callable[..., Context]):
    workload = Attention(batch_size=2, sequence_length=24, layer=layer)
    session: Any = workload.prepare(model_of(name), context_for(context_of, CLASSES[name], workload))
    stepped(session)
    assert session.input.grad.shape == (2, 24, 64)
    assert session.input.grad.any(dim=-1).all()
    unreached = [key for key, parameter in session.mixer.named_parameters() if parameter.grad is None]
    assert unreached == []
    sizes = sum(parameter.numel() for parameter in session.mixer.parameters())
    assert session.held_bytes() == {"gradient_bytes": 4 * sizes}
    assert session.facts()["mixer_parameters"] == sizes


@pytest.mark.parametrize("name", ["llama", "twin"])
@pytest.mark.parametrize("backward", [False, True])
def test_the_closed_form_is_what_eager_attention_counts(name: str, backward: bool, context_of: Callable[..., Context]):
    workload = Attention(batch_size=2, sequence_length=48, backward=backward)
    model = model_of(name)
    model.set_attn_implementation("eager")
    session: Any = workload.prepare(model, context_for(context_of, CLASSES[name], workload))
    stepped(session)
    session.before_step()
    with FlopCounterMode(display=False) as counter:
        session.step()
    work = session.work()
    assert work.dense_model_flops == counter.get_total_flops()
    tokens, width = 2 * 48, 64
    linear, mixing = 4 * width * width, 2 * width * (1 + 48) / 2
    assert work.model_flops == 2 * tokens * (linear + mixing) * (3 if backward else 1)
    assert (work.tokens, work.token_kind, work.samples) == (96, "prompt", 2)
    assert session.counted() == {"prompt_tokens": 2 * 96}


def test_layers_of_several_kinds_have_no_shared_closed_form(context_of: Callable[..., Context]):
    workload = Attention(sequence_length=24)
    session = workload.prepare(model_of("qwen3_5_text"), context_for(context_of, CLASSES["qwen3_5_text"], workload))
    assert session.work().model_flops is None


def test_forward_alone_keeps_no_graph_and_no_gradient(context_of: Callable[..., Context]):
    workload = Attention(sequence_length=24, backward=False)
    session: Any = stepped(workload.prepare(model_of("llama"), context_for(context_of, LLAMA, workload)))
    assert session.input.grad is None
    assert session.held_bytes() == {}
    assert not session.mixer.training


def test_the_same_step_again_gives_the_same_gradients(context_of: Callable[..., Context]):
    workload = Attention(sequence_length=24)
    session: Any = stepped(workload.prepare(model_of("llama"), context_for(context_of, LLAMA, workload)))
    first = [parameter.grad.clone() for parameter in session.mixer.parameters()]
    stepped(session, 2)
    assert all(torch.equal(a, b.grad) for a, b in zip(first, session.mixer.parameters(), strict=True))


def test_what_a_mixer_adds_to_the_loss_is_trained_and_not_kept(
    context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
):
    from harness.decoder.mixers.full import Full

    plain = Full.forward
    seen: list[Any] = []

    def with_loss(self: Any, hidden: Any, run: Any, slot: int) -> Any:
        loss = 3.0 * (hidden * hidden).sum()
        run.losses.append(loss)
        seen.append(weakref.ref(loss))
        return plain(self, hidden, run, slot)

    workload = Attention(sequence_length=24)
    context = context_for(context_of, CLASSES["twin"], workload)
    usual: Any = stepped(workload.prepare(model_of("twin"), context))
    monkeypatch.setattr(Full, "forward", with_loss)
    session: Any = workload.prepare(model_of("twin"), context)
    session.output_gradient = usual.output_gradient
    stepped(session, 3)
    assert torch.allclose(session.input.grad, usual.input.grad + 6 * session.input, atol=1e-5)
    assert [reference() is None for reference in seen] == [True, True, False]


def test_a_wrapped_model_is_measured_with_what_wraps_its_mixer(context_of: Callable[..., Context]):
    workload = Attention(sequence_length=24)
    context = context_of(Lora(r=2), workload=workload)
    session: Any = stepped(workload.prepare(Lora(r=2).transform(context.model.load(context), context), context))
    trained = [key for key, parameter in session.mixer.named_parameters() if parameter.grad is not None]
    assert trained
    assert all("lora_" in key for key in trained)
    assert session.input.grad is not None


def test_a_technique_elsewhere_leaves_the_mixer_alone(context_of: Callable[..., Context]):
    workload = Attention(sequence_length=24)
    plain, mixed = context_of(workload=workload), context_of(Mixture(), workload=workload)
    flops = [workload.prepare(context.model.load(context), context).work().model_flops for context in (plain, mixed)]
    assert flops[0] == flops[1]


def test_a_cache_is_not_reached(context_of: Callable[..., Context]):
    reason = skip_reason(context_of(Static(), workload=Attention()), ["static_cache"])
    assert reason is not None
    assert "never reaches" in reason


def test_a_layer_that_is_not_there_is_named(context_of: Callable[..., Context]):
    workload = Attention(sequence_length=24, layer=7)
    with pytest.raises(ValueError, match="2 token mixers, so no layer 7"):
        workload.prepare(model_of("llama"), context_for(context_of, LLAMA, workload))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"sequence_length": 0}, {"layer": -1}])
def test_options_that_measure_nothing_are_refused(options: dict[str, Any]):
    with pytest.raises(ValueError, match="at least"):
        Attention(**options)
