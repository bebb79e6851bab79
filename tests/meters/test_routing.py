"""Where tokens went: against loads that are known beforehand, and on transformers' own mixtures and ours."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.decoder.configuration import DecoderConfig
from harness.decoder.experts import Experts
from harness.interfaces import Readings, Session, Window, Work
from harness.meters.routing import NO_CAPACITY, NO_ROUTER, Routing, evenness
from harness.models.architecture import build
from harness.run.flops import cost_of
from harness.techniques.moe.mixture import Mixture
from harness.techniques.moe.widenet import WideNet
from harness.techniques.moe.zero_experts import ZeroExperts

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
#: DeepSeek-V2's and V3's sizes have the same names.
DEEPSEEK = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 24, "num_local_experts": 6, "num_experts_per_tok": 2},
    "olmoe": {"intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 3},
    "qwen2_moe": {
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "intermediate_size": 40,
        "num_experts": 6,
        "num_experts_per_tok": 2,
    },
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
}
OPTIONS = {"dtype": "float32", "attn_implementation": "sdpa"}


class Runs(Session):
    """A step that is one function."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.run, self.steps = work, 0

    def step(self) -> None:
        self.steps += 1
        self.run()


def probed(session: Session) -> tuple[Readings, list[list[int]]]:
    """The readings of one probe, and the visits that they rest on."""
    meter = Routing()
    meter.open("cpu")
    with torch.no_grad():
        meter.probe(session)
    return meter.readings(Window(Work(1), [0.1], [], 0, 10**8)), [bank.visits.tolist() for bank in meter.banks]


def of_model(model: Any, tokens: torch.Tensor) -> tuple[Readings, list[list[int]]]:
    return probed(Runs(lambda: model(input_ids=tokens, use_cache=False)))


def bank(experts: int) -> Experts:
    config = DecoderConfig(hidden_size=8)
    config._experts_implementation = "eager"
    return Experts(config, experts, 4, 1.0)


@given(
    index=st.integers(2, 6).flatmap(
        lambda e: st.tuples(
            st.just(e), st.lists(st.lists(st.integers(0, e + 1), min_size=2, max_size=2), min_size=1, max_size=12)
        )
    )
)
def test_a_known_load_is_read_back(index: tuple[int, list[list[int]]]):
    experts, places = index
    chosen, found = bank(experts), torch.tensor(places)
    readings, loads = probed(Runs(lambda: chosen(torch.ones(len(places), 8), found, torch.ones(found.shape))))
    load = [sum(row.count(expert) for row in places) for expert in range(experts)]
    values = readings.values
    assert loads == [load]
    assert values["router_count"] == 1
    assert values["expert_visits_per_token_count"] == sum(load) / len(places)
    each = 3 * 8 * 4 * 4  # gate, up and down of 8 by 4 in float32
    assert values["expert_traffic_bytes"] == each * sum(visits > 0 for visits in load)
    if not any(load):
        assert "no token visited" in readings.reasons["expert_load_entropy_ratio"]
        return
    assert values["expert_load_maximum_over_mean_ratio"] == pytest.approx(max(load) * experts / sum(load))
    expected = torch.distributions.Categorical(torch.tensor(load, dtype=torch.float64)).entropy() / math.log(experts)
    assert values["expert_load_entropy_ratio"] == pytest.approx(float(expected), abs=1e-9)


def test_evenness_is_one_where_all_are_visited_alike_and_zero_where_one_is():
    assert evenness([5, 5, 5, 5]) == pytest.approx(1)
    assert evenness([0, 7, 0]) == 0
    assert evenness([3]) == 1


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("kind", MIXTURES)
def test_transformers_mixtures_are_watched_whatever_runs_their_products(kind: str, implementation: str):
    model = build({"model_type": kind, **SMALL, **MIXTURES[kind]}, OPTIONS, "cpu", 0)
    model.set_experts_implementation(implementation)
    tokens = torch.randint(0, 64, (2, 9))
    readings, loads = of_model(model, tokens)
    layers = 2 if "first_k_dense_replace" in MIXTURES[kind] else 3
    visited = MIXTURES[kind]["num_experts_per_tok"]
    assert readings.values["router_count"] == layers
    assert readings.values["expert_visits_per_token_count"] == visited
    assert [sum(load) for load in loads] == [18 * visited] * layers
    hit = sum(visits > 0 for load in loads for visits in load)
    assert readings.values["expert_traffic_bytes"] == hit * 3 * 32 * 24 * 4
    assert readings.reasons == {"dropped_token_ratio": NO_CAPACITY}


def test_a_routers_own_choice_is_what_is_counted():
    model = build({"model_type": "mixtral", **SMALL, **MIXTURES["mixtral"]}, OPTIONS, "cpu", 0)
    tokens, expected = torch.randint(0, 64, (2, 9)), []
    hooks = [
        layer.mlp.gate.register_forward_hook(
            lambda _module, _input, output: expected.append(torch.bincount(output[2].flatten(), minlength=6).tolist())
        )
        for layer in model.model.layers
    ]
    readings, loads = of_model(model, tokens)
    for hook in hooks:
        hook.remove()
    assert loads == expected
    assert readings.facts["expert_visits_worst_bank"] == max(loads, key=max)


def test_one_token_reads_just_what_the_closed_form_says(context_of: Callable[..., Any]):
    context = context_of(Mixture())
    model = context.model.load(context)
    readings, _ = of_model(model, torch.randint(0, 256, (1, 1)))
    banks = [module for module in model.modules() if type(module).__name__.endswith("Experts")]
    held = sum(parameter.numel() * 4 for module in banks for parameter in module.parameters())
    assert readings.values["expert_traffic_bytes"] == held * 2 / 8
    assert held * 2 / 8 < cost_of(model).touched_bytes


def test_places_that_compute_nothing_are_no_visits(context_of: Callable[..., Any]):
    context = context_of(ZeroExperts())
    readings, loads = of_model(context.model.load(context), torch.randint(0, 256, (4, 50)))
    visits = readings.values["expert_visits_per_token_count"]
    assert visits is not None
    assert 1 < visits < 3
    assert {len(load) for load in loads} == {8}


def test_a_bank_shared_by_all_layers_is_one(context_of: Callable[..., Any]):
    context = context_of(WideNet())
    readings, loads = of_model(context.model.load(context), torch.randint(0, 256, (2, 9)))
    assert readings.values["router_count"] == 1
    assert readings.values["expert_visits_per_token_count"] == 2
    assert sum(loads[0]) == 4 * 18 * 2


def test_a_dense_model_costs_no_step_and_has_no_router(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("harness.meters.routing.find_banks", list)
    session = Runs(int)
    readings, _ = probed(session)
    assert session.steps == 0
    assert readings.values == {}
    assert set(readings.reasons) == {metric.name for metric in Routing.metrics}
    assert set(readings.reasons.values()) == {NO_ROUTER}


def test_no_module_of_a_dense_model_is_taken_for_a_bank(context_of: Callable[..., Any]):
    from harness.meters.routing import _bank

    context = context_of()
    assert [bank for module in context.model.load(context).modules() for bank in _bank(module)] == []


def test_a_step_that_fails_costs_the_readings_and_leaves_no_hook():
    chosen = bank(2)

    def fails() -> None:
        chosen(torch.ones(1, 8), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1))
        raise RuntimeError("out of everything")

    readings, _ = probed(Runs(fails))
    assert readings.values == {}
    assert {"out of everything" in reason for reason in readings.reasons.values()} == {True}
    assert not chosen._forward_pre_hooks


def test_a_step_that_calls_no_bank_says_so():
    chosen = bank(2)
    readings, _ = probed(Runs(int))
    assert {"called no bank" in reason for reason in readings.reasons.values()} == {True}
    assert not chosen._forward_pre_hooks


def test_without_torch_nothing_is_watched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "torch")
    session = Runs(int)
    assert "does not use torch" in probed(session)[0].reasons["router_count"]
    assert session.steps == 0
