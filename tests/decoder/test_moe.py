"""Banks of experts, routers, and what is built of them, against naive forms of the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from harness.decoder import experts as experts_module
from harness.decoder.blocks.shortcut import Shortcut
from harness.decoder.configuration import DecoderConfig
from harness.decoder.experts import Experts, grouped
from harness.decoder.feed_forwards.mixture import Mixture
from harness.decoder.feed_forwards.plus_plus import PlusPlus
from harness.decoder.feed_forwards.stochastic import Stochastic
from harness.decoder.feed_forwards.zero_experts import ControlledRouter, ZeroExperts
from harness.decoder.model import DecoderForCausalLM
from harness.decoder.objectives.consistency import symmetric_divergence
from harness.decoder.objectives.next_token import next_token_loss
from harness.decoder.parts import Run
from harness.decoder.routing import Router, balance_loss, visits

HIDDEN = 8
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")


def config(implementation: str = "grouped_mm", **changes: Any) -> DecoderConfig:
    shape: dict[str, Any] = {"hidden_size": HIDDEN, "intermediate_size": 16, "initializer_range": 0.5}
    made = DecoderConfig(**{**shape, **changes})
    made._experts_implementation = implementation
    return made


def run_of(training: bool = False, tokens: int = 1) -> Run:
    return Run(0, torch.arange(tokens)[None], None, training)


def one_expert(bank: Experts, expert: int, tokens: torch.Tensor) -> torch.Tensor:
    """An expert by its weights, as a gated layer is written down."""
    gate, up = (tokens @ part.T for part in bank.gate_up_proj[expert].chunk(2))
    return (experts_module.ACTIVATIONS[bank.activation](gate) * up) @ bank.down_proj[expert].T


def naive(bank: Experts, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Every expert for every token, weighed by the sum of its places' weights."""
    dense = torch.zeros(hidden.shape[0], int(index.max()) + bank.num_experts + 1).scatter_add(1, index, weights)
    return sum((dense[:, e, None] * one_expert(bank, e, hidden) for e in range(bank.num_experts)), hidden * 0)


@st.composite
def calls(draw: Any) -> tuple[int, int, torch.Tensor]:
    """A number of experts, a width, and the numbers of those visited, some beyond the last expert."""
    experts, places = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rows = draw(
        st.lists(st.lists(st.integers(0, experts + 2), min_size=places, max_size=places), min_size=1, max_size=9)
    )
    return experts, draw(st.sampled_from([3, 4, 8])), torch.tensor(rows)


@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(call=calls())
def test_a_bank_sums_its_experts_by_weight_and_so_do_its_gradients(
    implementation: str, activation: str, call: tuple[int, int, torch.Tensor]
):
    experts, width, index = call
    bank = Experts(config(implementation), experts, width, 1.0, activation, absent=True)
    hidden = torch.randn(index.shape[0], HIDDEN, requires_grad=True)
    weights = torch.rand(index.shape, requires_grad=True)
    leaves = [hidden, weights, *bank.parameters()]
    outcomes = bank(hidden, index, weights), naive(bank, hidden, index, weights)
    assert torch.allclose(*outcomes, atol=1e-4)
    toward = torch.randn_like(hidden)
    for found, expected in zip(
        *(torch.autograd.grad(((item + 0 * hidden) * toward).sum(), leaves, allow_unused=True) for item in outcomes),
        strict=True,
    ):
        zero = torch.zeros(())
        assert torch.allclose(zero if found is None else found, zero if expected is None else expected, atol=1e-3)


@pytest.mark.parametrize("inputs", [8, 6])
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5), beyond=st.integers(0, 3))
def test_grouped_products_are_each_groups_own(inputs: int, sizes: list[int], beyond: int):
    weights, rows = torch.randn(len(sizes), 4, inputs), torch.randn(sum(sizes) + beyond, inputs)
    ends = torch.tensor(sizes).cumsum(0).int()
    expected = [part @ weight.T for part, weight in zip(rows[: sum(sizes)].split(sizes), weights, strict=True)]
    assert torch.allclose(grouped(rows, weights, ends)[: sum(sizes)], torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "widths", "has"),
    [
        (torch.float32, (8, 4), True),
        (torch.float32, (8, 6), False),
        (torch.bfloat16, (8, 16), True),
        (torch.bfloat16, (8, 12), False),
    ],
)
def test_the_kernel_is_asked_only_for_what_it_can(dtype: torch.dtype, widths: tuple[int, int], has: bool):
    rows, weights = torch.ones(3, widths[1], dtype=dtype), torch.ones(2, *widths, dtype=dtype)
    assert experts_module._has_kernel(rows, weights) == has
    product = grouped(rows, weights, torch.tensor([1, 3], dtype=torch.int32))
    assert torch.equal(product, torch.full((3, widths[0]), float(widths[1]), dtype=dtype))


def test_a_kernel_runs_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    called = []
    plain = torch._grouped_mm
    monkeypatch.setattr(torch, "_grouped_mm", lambda *a, **k: called.append(1) or plain(*a, **k))
    index = torch.tensor([[0], [1]])
    for implementation in IMPLEMENTATIONS:
        Experts(config(implementation), 2, 4, 1.0)(torch.ones(2, HIDDEN), index, torch.ones(2, 1))
        assert len(called) == (0 if implementation == "eager" else 2)


def test_one_expert_that_all_visit_is_the_dense_layer():
    layer = Mixture(config(), 0, experts=1, experts_per_token=1, width=16, normalized=True)
    hidden = torch.randn(2, 5, HIDDEN)
    expected = one_expert(layer.experts, 0, hidden)
    assert torch.allclose(layer(hidden, run_of(), hidden), expected, atol=1e-5)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_mixture_is_its_experts_by_the_routers_best_scores(early: bool, scores: str, normalized: bool):
    layer = Mixture(
        config(), 0, experts=5, experts_per_token=2, width=4, shared_width=6, scores=scores, normalized=normalized,
        early=early,
    )  # fmt: skip
    hidden, before = torch.randn(1, 7, HIDDEN), torch.randn(1, 7, HIDDEN)
    found = layer(hidden, run_of(), before)
    assert layer.shared is not None
    for token in range(7):
        logits = layer.router.weight @ (before if early else hidden)[0, token]
        each = logits.sigmoid() if scores == "sigmoid" else logits.softmax(0)
        best = sorted(range(5), key=lambda expert: -each[expert].item())[:2]
        total = sum(each[expert] for expert in best) if normalized else 1.0
        expected = sum(each[expert] / total * one_expert(layer.experts, expert, hidden[0, token]) for expert in best)
        assert torch.allclose(found[0, token], expected + layer.shared(hidden, run_of(), before)[0, token], atol=1e-4)


def test_a_mixture_of_our_own_computes_what_transformers_does():
    from harness.models.architecture import build

    options = {"dtype": "float32", "attn_implementation": "sdpa"}
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = build({
        "model_type": "mixtral", **sizes, "num_key_value_heads": 2, "intermediate_size": 24, "num_local_experts": 6,
        "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }, options, "cpu", 0)  # fmt: skip
    part = {"kind": "mixture", "experts": 6, "experts_per_token": 2, "width": 24, "normalized": True}
    ours = build({"model_type": "harness_decoder", **sizes, "feed_forward": part}, options, "cpu", 1)
    names = {
        "model.embed_tokens": "embeddings", "model.norm": "norm", "model.layers": "stack.blocks",
        "self_attn.q_proj": "mixer.query", "self_attn.k_proj": "mixer.key", "self_attn.v_proj": "mixer.value",
        "self_attn.o_proj": "mixer.output", "mlp.gate": "feed_forward.router", "mlp.experts": "feed_forward.experts",
        "input_layernorm": "mixer_norm", "post_attention_layernorm": "feed_forward_norm",
    }  # fmt: skip
    state = theirs.state_dict()
    for old, new in names.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    ours.load_state_dict(state)
    tokens = torch.randint(0, 64, (2, 30))
    with torch.no_grad():
        expected = theirs(tokens).logits
        for implementation in IMPLEMENTATIONS:
            ours.set_experts_implementation(implementation)
            assert torch.allclose(ours(tokens).logits, expected, atol=1e-5)


def test_the_default_runs_as_transformers_mixtures_do():
    assert DecoderForCausalLM(DecoderConfig(num_hidden_layers=1)).config._experts_implementation == "grouped_mm"


@given(loads=st.lists(st.integers(0, 6), min_size=2, max_size=6).filter(any))
def test_visits_are_counted(loads: list[int]):
    index = torch.tensor([[expert] for expert, times in enumerate(loads) for _ in range(times)])
    assert visits(index, len(loads)).tolist() == loads


@pytest.mark.parametrize("places", [1, 2])
def test_the_balance_loss_is_one_where_all_is_even_and_as_many_as_experts_where_one_has_all(places: int):
    index = torch.arange(6).repeat_interleave(places).reshape(-1, places) % 6
    assert balance_loss(torch.full((6, 6), 1 / 6), index).item() == pytest.approx(1)
    one = functional.one_hot(torch.zeros(5, dtype=torch.int64), 6).float()
    assert balance_loss(one, torch.zeros(5, 1, dtype=torch.int64)).item() == pytest.approx(6)


def test_the_balance_loss_is_switchs_formula():
    scores, index = torch.rand(11, 4), torch.randint(0, 4, (11, 2))
    means = (scores / scores.sum(1, keepdim=True)).mean(0)
    shares = torch.tensor([(index == expert).float().mean() for expert in range(4)])
    assert balance_loss(scores, index).item() == pytest.approx(4 * float(shares @ means), rel=1e-5)


@given(zero_cost=st.floats(0.1, 1.0), experts=st.integers(1, 8), cheap=st.integers(1, 6))
def test_costs_make_the_optimum_that_the_closed_form_of_moe_plus_plus_counts_on(
    zero_cost: float, experts: int, cheap: int
):
    """Where shares and mean scores agree, the loss is the sum of cost x share^2, least for shares of 1/cost."""
    layer = PlusPlus(config(), 1, experts, cheap, 1, 4, zero_cost, 0.01)  # and the two that learn nothing
    costs = torch.tensor([1.0] * experts + [zero_cost] * (cheap + 2), dtype=torch.float64)
    shares = (1 / costs) / (1 / costs).sum()
    assert layer.experts.visited_share * experts == pytest.approx(float(shares[:experts].sum()), rel=1e-6)
    least = float((costs * shares**2).sum())
    for _ in range(5):
        other = torch.distributions.Dirichlet(torch.ones(len(costs), dtype=torch.float64)).sample()
        assert float((costs * other**2).sum()) >= least - 1e-12


def test_a_router_adds_its_loss_in_training_alone():
    router, hidden = Router(config(), 4, 2, balance=0.1), torch.randn(9, HIDDEN)
    idle, busy = run_of(), run_of(training=True)
    for run in (idle, busy):
        index, _ = router(hidden, run)
    assert idle.losses == []
    expected = 0.1 * balance_loss((hidden @ router.weight.T).softmax(-1), index)
    assert [loss.item() for loss in busy.losses] == pytest.approx([expected.item()], rel=1e-5)


def test_minimizing_the_balance_loss_evens_the_load():
    torch.manual_seed(0)
    hidden, router = torch.randn(256, HIDDEN) + 1.0, Router(config(), 4, 1, balance=1.0)
    optimizer = torch.optim.Adam(router.parameters(), lr=0.05)

    def worst() -> float:
        return float(visits(router(hidden, run_of())[0], 4).max()) * 4 / 256

    before = worst()
    for _ in range(100):
        run = run_of(training=True)
        router(hidden, run)
        optimizer.zero_grad()
        run.losses[0].backward()
        optimizer.step()
    assert worst() < min(before, 1.6)


def test_the_controller_brings_the_computing_experts_to_what_is_expected():
    torch.manual_seed(0)
    router, hidden = ControlledRouter(config(), 4, 2, 3, expected=1.0, rate=0.05), torch.randn(512, HIDDEN)

    def computing() -> float:
        return float((router(hidden, run_of())[0] < 4).sum()) / 512

    assert computing() > 1.5, "even scores give two of three places"
    with torch.no_grad():
        for _ in range(300):
            router(hidden, run_of(training=True))
    assert computing() == pytest.approx(1.0, abs=0.1)
    assert router.bias[4:].tolist() == [0.0, 0.0]


def test_the_controller_moves_a_bias_by_what_its_share_lacks():
    router = ControlledRouter(config(), 2, 1, 2, expected=1.0, rate=0.1)
    router.learn(torch.ones(4, 3), torch.tensor([[0, 1], [0, 1], [0, 2], [0, 2]]), run_of(training=True))
    # Targets of 1/2 of the places for two experts: 1/4 each; they had 4/8 and 2/8.
    assert router.bias.tolist() == pytest.approx([0.1 * (1 / 4 - 1 / 2), 0.0, 0.0])


def test_out_of_training_the_controller_rests():
    router = ControlledRouter(config(), 2, 1, 2, expected=1.0, rate=0.1)
    router(torch.randn(5, HIDDEN), run_of())
    assert router.bias.tolist() == [0.0, 0.0, 0.0]


def test_zero_experts_return_their_input():
    layer = ZeroExperts(config(), 0, experts=3, zero_experts=2, experts_per_token=2, expected=1.0, width=4, rate=0.1)
    hidden = torch.randn(1, 6, HIDDEN)
    index, weights = layer.router(hidden[0], run_of())
    found = layer(hidden, run_of(), hidden)
    for token in range(6):
        parts = [
            hidden[0, token] if place >= 3 else one_expert(layer.experts, int(place), hidden[0, token])
            for place in index[token]
        ]
        expected = 2.5 * (weights[token][:, None] * torch.stack(parts)).sum(0)
        assert torch.allclose(found[0, token], expected, atol=1e-4)


def test_moe_plus_plus_is_the_sum_of_its_kinds_of_experts_over_the_depth():
    """The second layer's router also reads the first one's logits; every choice is written out."""
    layers = [PlusPlus(config(), layer, 3, 2, 3, 4, 0.75, 0.01) for layer in range(2)]
    assert layers[0].router.pathway is None
    assert layers[1].router.pathway is not None
    hidden, run = torch.randn(1, 6, HIDDEN), run_of()
    found = [layer(hidden, run, hidden) for layer in layers]
    for token in range(6):
        x, before = hidden[0, token], None
        for layer, outcome in zip(layers, found, strict=True):
            logits = layer.router.weight @ x
            if before is not None and layer.router.pathway is not None:
                logits = logits + layer.router.pathway @ before
            before, scores = logits, logits.softmax(0)
            expected = torch.zeros(HIDDEN)
            for choice in scores.topk(3).indices.tolist():
                if choice < 3:
                    part = one_expert(layer.experts, choice, x)
                elif choice == 3:
                    part = torch.zeros(HIDDEN)
                elif choice == 4:
                    part = x
                else:
                    kept, learned = (layer.mixing.view(2, 2, HIDDEN)[choice - 5] @ x).softmax(0)
                    part = kept * x + learned * layer.vectors[choice - 5]
                expected = expected + scores[choice] * part
            assert torch.allclose(outcome[0, token], expected, atol=1e-4)


def test_lots_are_fixed_by_place_and_layer_and_even():
    lots = [Stochastic(config(), layer, 4)._lots(torch.arange(4000)[None]) for layer in range(3)]
    assert torch.equal(lots[0], Stochastic(config(), 0, 4)._lots(torch.arange(4000)[None]))
    for lot in lots:
        assert ((visits(lot, 4) / 1000) - 1).abs().max() < 0.1
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (lots[one] == lots[other]).float().mean().item() == pytest.approx(1 / 4, abs=0.04)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_a_pair_of_passes_never_draws_the_same_expert(batch: int):
    layer = Stochastic(config(), 0, 3)
    drawn = layer._drawn(batch, torch.device("cpu"))
    half = batch // 2
    assert drawn.shape == (batch, 1)
    assert set(drawn.flatten().tolist()) <= {0, 1, 2}
    assert not (drawn[:half] == drawn[batch - half :]).any()


def test_a_token_of_chance_passes_the_expert_of_its_lot():
    layer = Stochastic(config(), 2, 3)
    hidden = torch.randn(2, 5, HIDDEN)
    found, lots = layer(hidden, run_of(tokens=5), hidden), layer._lots(torch.arange(5)[None])[0]
    for token in range(5):
        assert torch.allclose(found[:, token], one_expert(layer.experts, int(lots[token]), hidden[:, token]), atol=1e-5)


def test_the_divergence_is_torchs_own_and_zero_between_equals():
    one, other = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    logs = one.log_softmax(-1), other.log_softmax(-1)
    both = [functional.kl_div(a, b, reduction="none", log_target=True).sum(-1).mean() for a, b in (logs, logs[::-1])]
    assert symmetric_divergence(one, other).item() == pytest.approx(float(sum(both)) / 2, rel=1e-5)
    assert symmetric_divergence(one, one + 3.0).item() == pytest.approx(0, abs=1e-6)


def stochastic_model(experts: int, weight: float) -> Any:
    torch.manual_seed(0)
    part, objective = {"kind": "stochastic", "experts": experts}, {"kind": "consistency", "weight": weight}
    return DecoderForCausalLM(
        DecoderConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, feed_forward=part, objective=objective)
    )


def test_experts_that_agree_leave_the_plain_loss_and_others_are_pulled_together():
    model, tokens = stochastic_model(2, weight=4.0).train(), torch.randint(0, 256, (3, 20))
    for block in model.stack.blocks:
        bank = block.feed_forward.experts
        for weights in (bank.gate_up_proj, bank.down_proj):
            weights.data[1] = weights.data[0]
    output = model(tokens, labels=tokens)
    assert output.logits.shape == (3, 20, 256)
    assert output.loss.item() == pytest.approx(next_token_loss(output.logits, tokens).item(), rel=1e-5)
    model.stack.blocks[0].feed_forward.experts.down_proj.data[1] *= -40.0
    one, other = (stochastic_loss(model, tokens, weight) for weight in (0.0, 4.0))
    assert other > one + 1e-4


def stochastic_loss(model: Any, tokens: torch.Tensor, weight: float) -> float:
    model.objective.weight = weight
    torch.manual_seed(3)
    return model(tokens, labels=tokens).loss.item()


def test_out_of_training_consistency_is_the_plain_loss_of_one_pass():
    model, tokens = stochastic_model(3, weight=5.0).eval(), torch.randint(0, 256, (2, 20))
    with torch.no_grad():
        output = model(tokens, labels=tokens)
        plain = model(tokens).logits
    assert torch.equal(output.logits, plain)
    assert output.loss.item() == next_token_loss(plain, tokens).item()


def decoder(**parts: Any) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "initializer_range": 0.2,
    }
    return DecoderForCausalLM(DecoderConfig(**shape, **parts)).eval()


def test_a_pairs_experts_read_the_first_layer_and_are_added_after_the_second():
    part = {"kind": "mixture", "experts": 3, "experts_per_token": 2, "width": 8}
    model = decoder(feed_forward=part, block={"kind": "shortcut", "dense_width": 24})
    blocks: list[Shortcut] = list(model.stack.blocks)
    assert [block.experts is None for block in blocks] == [False, True, False, True]
    hidden, run = torch.randn(1, 6, 32), run_of(tokens=6)
    with torch.no_grad():
        found = blocks[1](blocks[0](hidden, run, 0), run, 1)
        assert run.told == {}
        state = hidden
        for place, block in enumerate(blocks[:2]):
            before = block.mixer_norm(state)
            state = state + block.mixer(before, run, place)
            if place == 0:
                assert blocks[0].experts is not None
                beside = blocks[0].experts(block.feed_forward_norm(state), run, before)
            state = state + block.feed_forward(block.feed_forward_norm(state), run, before)
    assert torch.allclose(found, state + beside, atol=1e-5)


def test_a_shared_layer_is_as_many_layers_with_the_same_weights():
    part = {"kind": "mixture", "experts": 3, "experts_per_token": 2, "width": 8}
    shared, apart = decoder(feed_forward=part, stack={"kind": "shared"}), decoder(feed_forward=part)
    tokens, state = torch.randint(0, 256, (2, 12)), apart.state_dict()
    for index, (mixer_norm, feed_norm) in enumerate(
        zip(shared.stack.mixer_norms, shared.stack.feed_forward_norms, strict=True)
    ):
        mixer_norm.weight.data.add_(0.1 * index)
        feed_norm.weight.data.sub_(0.1 * index)
    for name in list(state):
        place = name.removeprefix("stack.blocks.").partition(".")
        if place[2].startswith("mixer_norm"):
            state[name] = shared.stack.mixer_norms[int(place[0])].weight
        elif place[2].startswith("feed_forward_norm"):
            state[name] = shared.stack.feed_forward_norms[int(place[0])].weight
        elif name.startswith("stack.blocks."):
            state[name] = shared.state_dict()[f"stack.layer.{place[2]}"]
        else:
            state[name] = shared.state_dict()[name]
    apart.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(shared(tokens).logits, apart(tokens).logits, atol=1e-5)


@pytest.mark.parametrize(
    "parts", [{"block": {"kind": "shortcut", "dense_width": 8}}, {"position": [{"kind": "rope"}, {"kind": "rope"}]}]
)
def test_a_shared_layer_refuses_what_it_would_leave_out(parts: dict[str, Any]):
    with pytest.raises(ValueError, match="a shared layer is a pre_norm block"):
        decoder(stack={"kind": "shared"}, **parts)


def test_weights_start_at_the_configurations_spread():
    layer = PlusPlus(config(hidden_size=256), 1, 8, 2, 2, 64, 0.75, 0.01)
    for name, parameter in layer.named_parameters():
        assert parameter.std().item() == pytest.approx(0.5, rel=0.15), name
        assert math.isclose(parameter.mean().item(), 0, abs_tol=0.1), name
