"""A workload counts what it produces, and does what its options say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.techniques.cache.static import Static
from harness.techniques.peft.lora import Lora
from harness.techniques.zeroth_order.mezo import MeZO
from harness.workloads.acting import acting
from harness.workloads.decode import Decode
from harness.workloads.generate import Generate
from harness.workloads.prefill import Prefill
from harness.workloads.train_step import TrainStep


def session_of(context_of: Callable[..., Any], workload: Any, *techniques: Any) -> Any:
    context = context_of(*techniques, workload=workload, num_hidden_layers=1)
    model = context.model.load(context)
    for technique in techniques:
        model = technique.transform(model, context)
    return workload.prepare(model, context)


def run(session: Any, steps: int) -> Any:
    for _ in range(steps):
        session.before_step()
        session.step()
    return session


def test_prefill_reads_a_fresh_prompt_into_a_fresh_cache(context_of: Callable[..., Any]):
    session = run(session_of(context_of, Prefill(batch_size=2, prompt_tokens=24, quality_windows=2)), 1)
    first, cache = session.prompt, session.cache
    run(session, 2)
    assert session.counted()["prompt_tokens"] == 3 * 48 == 3 * session.work().tokens
    assert session.work().token_kind == "prompt"
    assert not torch.equal(first, session.prompt)
    assert cache is not session.cache
    assert cache.get_seq_length() == 24


def test_decode_starts_a_new_sequence_after_the_tokens_asked_for(context_of: Callable[..., Any]):
    session = session_of(context_of, Decode(batch_size=2, prompt_tokens=16, new_tokens=4, quality_windows=2))
    lengths = []
    for _ in range(9):
        session.before_step()
        lengths.append(session.cache.get_seq_length())
        session.step()
    assert lengths == [16, 17, 18, 19, 16, 17, 18, 19, 16]
    assert session.counted()["output_tokens"] == 9 * 2 == 9 * session.work().tokens
    assert session.work().token_kind == "output"


def test_a_decode_step_is_the_models_own_greedy_choice(context_of: Callable[..., Any]):
    session = session_of(context_of, Decode(prompt_tokens=16, new_tokens=6, quality_windows=2))
    prompts = []
    real = session.next_prompt
    session.next_prompt = lambda: prompts.append(real()) or prompts[-1]
    tokens = []
    for _ in range(5):
        session.before_step()
        tokens.append(session.token)
        session.step()
    expected = session.model.generate(prompts[0], do_sample=False, max_new_tokens=5, min_new_tokens=5, pad_token_id=0)
    assert torch.cat(tokens, 1).tolist() == expected[:, 16:].tolist()


def test_the_cache_of_a_full_sequence_is_reported(context_of: Callable[..., Any]):
    session = run(session_of(context_of, Decode(prompt_tokens=16, new_tokens=4, quality_windows=2)), 6)
    assert session.held_bytes()["kv_cache_bytes"] == session.facts()["plain_kv_cache_bytes"] == 20 * 2 * 128 * 4


def test_generate_times_every_token_of_every_request(context_of: Callable[..., Any]):
    session = session_of(context_of, Generate(batch_size=2, prompt_tokens=16, new_tokens=5, quality_windows=2))
    run(session, 1)
    session.forget()
    run(session, 3)
    samples = session.samples()
    assert (len(samples["ttft_seconds"]), len(samples["request_seconds"]), len(samples["token_gap_seconds"])) == (
        3,
        3,
        12,
    )
    whole = sum(samples["ttft_seconds"]) + sum(samples["token_gap_seconds"])
    assert whole == pytest.approx(sum(samples["request_seconds"]))
    assert session.counted()["output_tokens"] == 4 * 2 * 5 == 4 * session.work().tokens


def test_a_techniques_cache_is_the_one_in_use(context_of: Callable[..., Any]):
    for workload in (
        Prefill(prompt_tokens=16, quality_windows=2),
        Decode(prompt_tokens=16, new_tokens=4, quality_windows=2),
    ):
        session = run(session_of(context_of, workload, Static()), 1)
        assert session.facts()["cache"] == "StaticCache"


def test_training_lowers_the_loss_and_counts_its_tokens(context_of: Callable[..., Any]):
    workload = TrainStep(batch_size=4, sequence_length=32, budget_tokens=4096, held_out_windows=8)
    session = session_of(context_of, workload)
    run(session, session.fixed_steps())
    outcome = session.outcome()
    assert outcome["quality_bits_per_byte"] < outcome["quality_before_bits_per_byte"] - 0.5
    assert session.counted() == {"trained_tokens": 4096}
    assert session.work().token_kind == "trained"


def test_the_same_seed_trains_to_the_same_loss(context_of: Callable[..., Any]):
    workload = TrainStep(batch_size=2, sequence_length=16, budget_tokens=256, held_out_windows=4)
    losses = [run(session_of(context_of, workload), 8).facts()["final_training_loss_nats"] for _ in range(2)]
    assert losses[0] == losses[1]


def test_adapters_alone_get_gradients_and_optimizer_state(context_of: Callable[..., Any]):
    workload = TrainStep(batch_size=2, sequence_length=16, budget_tokens=256, held_out_windows=4)
    session = run(session_of(context_of, workload, Lora(r=2)), 2)
    trained = sum(p.numel() for p in session.model.parameters() if p.requires_grad)
    held = session.held_bytes()
    assert held["gradient_bytes"] == 4 * trained
    assert 8 * trained <= held["optimizer_state_bytes"] <= 8 * trained + 4 * 100


def test_training_without_backpropagation_holds_no_gradients(context_of: Callable[..., Any]):
    workload = TrainStep(batch_size=2, sequence_length=16, budget_tokens=256, held_out_windows=4)
    session = run(session_of(context_of, workload, MeZO()), 2)
    assert session.held_bytes() == {"gradient_bytes": 0}
    assert session.facts()["training_step"] == "MeZO"


def test_a_model_with_everything_frozen_is_refused(context_of: Callable[..., Any]):
    workload = TrainStep(batch_size=2, sequence_length=16, budget_tokens=256, held_out_windows=4)
    context = context_of(workload=workload, num_hidden_layers=1)
    with pytest.raises(ValueError, match="stack a technique"):
        workload.prepare(context.model.load(context).requires_grad_(False), context)


def test_random_weights_have_no_quality_in_inference(context_of: Callable[..., Any]):
    session = run(session_of(context_of, Prefill(prompt_tokens=16, quality_windows=2)), 1)
    assert session.outcome() == {}
    assert "predict nothing" in session.facts()["quality_basis"]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Generate(new_tokens=1), "new_tokens"),
        (lambda: TrainStep(budget_tokens=100), "budget_tokens"),
    ],
)
def test_options_that_measure_nothing_are_refused(make: Callable[[], Any], named: str):
    with pytest.raises(ValueError, match=named):
        make()


def test_the_technique_that_acts_is_the_one_that_overrides(context_of: Callable[..., Any]):
    stack = (Lora(), Static())
    assert acting(stack, "cache") is stack[1]
    assert acting(stack, "optimizer") is None


def test_two_techniques_for_one_exclusive_moment_are_not_both_credited(context_of: Callable[..., Any]):
    from harness.plan.building import skip_reason
    from harness.techniques.cache.quantized import QuantizedKV

    context = context_of(Static(), QuantizedKV(), workload=Prefill())
    reason = skip_reason(context, ["static_cache", "kv_int4"])
    assert reason is not None
    assert "cache" in reason
