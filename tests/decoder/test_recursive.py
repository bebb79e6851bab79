"""Shared layers against the same layers written out, and routed ones against a dense reference with masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from harness.decoder.parts import Run
from harness.decoder.ragged import choose
from harness.decoder.stacks.routed_recursive import bounded_counts
from harness.interfaces import Window, Work
from harness.meters.executed_depth import ExecutedDepth
from harness.models.architecture import build
from harness.run.flops import active_parameters
from harness.techniques.depth.recursive import MixtureOfRecursions, Recursive

SHAPE: dict[str, Any] = {
    "model_type": "harness_decoder",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BATCH, LENGTH = 3, 40


def model_of(stack: dict[str, Any], layers: int = 8, attention: str = "sdpa", seed: int = 0) -> Any:
    options = {"dtype": "float32", "attn_implementation": attention}
    model = build({**SHAPE, "num_hidden_layers": layers, "stack": stack}, options, "cpu", seed)
    torch.manual_seed(seed)
    with torch.no_grad():  # larger weights than at the start, so that layers matter and routers disagree
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("recursions", [2, 3])
def test_recursion_is_the_same_layers_written_out(recursions: int):
    shared = model_of({"kind": "recursive", "recursions": recursions})
    plain = model_of({"kind": "layers"})
    weights = {name: value for name, value in shared.state_dict().items() if not name.startswith("stack.")}
    blocks = [shared.stack.first, *[*shared.stack.shared] * recursions, shared.stack.last]
    for slot, block in enumerate(blocks):
        weights |= {f"stack.blocks.{slot}.{name}": value for name, value in block.state_dict().items()}
    plain.load_state_dict(weights)
    with torch.no_grad():
        assert torch.allclose(shared(ids()).logits, plain(ids()).logits, atol=1e-10)
    one = sum(parameter.numel() for parameter in plain.stack.blocks[0].parameters())
    assert active_parameters(plain) - active_parameters(shared) == one * (6 - 6 // recursions)


@given(
    seed=st.integers(0, 2**31), tokens=st.integers(1, 30), slack=st.integers(1, 5), share=st.floats(0.05, 1.0),
    seen=st.integers(0, 20), chance=st.floats(0.0, 1.0),
)  # fmt: skip
def test_counts_are_cut_one_after_another(seed: int, tokens: int, slack: int, share: float, seen: int, chance: float):
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.rand(2, tokens, generator=generator) < chance
    number = torch.arange(seen + 1, seen + tokens + 1).expand(2, -1)
    low = (share * number - slack).ceil().long().clamp_min(0)
    high = torch.minimum((share * number + slack).floor().long(), number)
    start = (share * torch.full((2,), seen)).long()
    found = bounded_counts(wanted, low, high, start)
    for row in range(2):
        count = int(start[row])
        for place in range(tokens):
            count = max(int(low[row, place]), min(count + int(wanted[row, place]), int(high[row, place])))
            assert found[row, place] == count
    steps = torch.diff(found, dim=1, prepend=start[:, None])
    assert set(steps.flatten().tolist()) <= {0, 1}


@given(seed=st.integers(0, 2**31), tokens=st.integers(1, 12))
def test_what_is_chosen_keeps_its_order_and_goes_back_to_its_place(seed: int, tokens: int):
    mask = torch.rand(3, tokens, generator=torch.Generator().manual_seed(seed)) < 0.5
    values = torch.arange(3.0 * tokens).view(3, tokens, 1)
    chosen = choose(mask)
    for row in range(3):
        assert chosen.of(values)[row, chosen.real[row], 0].tolist() == values[row, mask[row], 0].tolist()
    changed = chosen.put(values, -chosen.of(values))
    assert torch.equal(changed, torch.where(mask[..., None], -values, values))


def taken_of(model: Any) -> list[torch.Tensor]:
    """A list that fills with which tokens each recursion after the first took, as masks over the whole sequence."""
    found: list[torch.Tensor] = []
    enter = model.stack._enter

    def note(taken: torch.Tensor, run: Run, step: int, longest: int | None) -> Any:
        mask = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        rows, places = taken.nonzero(as_tuple=True)
        mask[rows, run.positions.expand(BATCH, -1)[rows, places]] = True
        found.append(mask)
        return enter(taken, run, step, longest)

    model.stack._enter = note
    return found


def dense(model: Any, tokens: torch.Tensor, taken: list[torch.Tensor], routing: str) -> torch.Tensor:
    """Every recursion of every token, its attention masked to those that were taken, and kept for these alone."""
    stack, positions = model.stack, torch.arange(LENGTH)[None]
    hidden = stack.first(model.embeddings(tokens), Run(0, positions), 0)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    start, depth = hidden, 1 + torch.stack(taken).sum(0)
    chances = stack.routers[0](hidden).softmax(-1)
    for step, mask in enumerate([torch.ones(BATCH, LENGTH, dtype=torch.bool), *taken]):
        # A token that was not taken looks at itself alone, so that its row of the softmax is not empty.
        allowed = (causal & mask[:, None] | torch.eye(LENGTH, dtype=torch.bool))[:, None]
        after = stack.once(hidden, Run(0, positions, allowed=allowed), step)
        if routing == "expert":
            after = stack.alpha * stack.routers[step](hidden).sigmoid() * after + hidden
        else:
            gate = chances.gather(2, depth[..., None] - 1)
            after = torch.where((depth == step + 1)[..., None], gate * after + start, after)
        hidden = torch.where(mask[..., None], after, hidden)
    return model.lm_head(model.norm(stack.last(hidden, Run(0, positions), stack.last_slot)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("routing", ["expert", "token"])
@pytest.mark.parametrize("recursions", [2, 3])
def test_tokens_that_left_are_as_if_masked(recursions: int, routing: str, training: bool, attention: str):
    stack = {"kind": "routed_recursive", "recursions": recursions, "routing": routing, "slack": 30}
    model = model_of(stack, attention=attention).train(training)
    taken = taken_of(model)
    with torch.no_grad():
        found = model(ids()).logits
        assert len(taken) == recursions - 1
        assert all(0 < mask.sum() < mask.numel() for mask in taken)
        assert torch.allclose(found, dense(model, ids(), taken, routing), atol=1e-8 if attention == "sdpa" else 1e-5)


@pytest.mark.parametrize("routing", ["expert", "token"])
def test_parts_of_a_sequence_take_what_the_whole_took(routing: str):
    model = model_of({"kind": "routed_recursive", "recursions": 3, "routing": routing, "slack": 3})
    with torch.no_grad():
        whole = model(ids()).logits
        for cuts in ([1] * LENGTH, [7, 1, 0, 30, 2], [LENGTH - 1, 1]):
            cache, parts = DynamicCache(config=model.config), ids().split([cut for cut in cuts if cut], 1)
            found = [model(part, past_key_values=cache, use_cache=True).logits for part in parts]
            assert torch.allclose(whole, torch.cat(found, 1), atol=1e-8)


@given(seed=st.integers(0, 50), slack=st.integers(1, 4))
@settings(max_examples=15)
def test_the_share_taken_stays_near_the_capacity_at_every_length(seed: int, slack: int):
    model = model_of({"kind": "routed_recursive", "recursions": 3, "slack": slack}, seed=seed)
    taken = taken_of(model)
    with torch.no_grad():
        model(ids(seed))
    number = torch.arange(1, LENGTH + 1)
    first, second = (mask.cumsum(1) for mask in taken)
    assert ((first - 2 / 3 * number).abs() <= slack + 1e-9).all()
    assert ((second - first / 2).abs() <= slack).all()
    assert not (taken[1] & ~taken[0]).any()


def test_training_takes_the_best_scores_and_teaches_the_router():
    model = model_of({"kind": "routed_recursive", "recursions": 3}).train()
    taken = taken_of(model)
    _, run = model.hidden(ids())
    assert [mask.sum(1).tolist() for mask in taken] == [[27] * BATCH, [14] * BATCH]
    assert len(run.losses) == 2
    assert all(loss.requires_grad for loss in run.losses)
    scores = model.stack.routers[1]
    found: list[torch.Tensor] = []
    hook = scores.register_forward_hook(lambda _module, _inputs, output: found.append(output[..., 0]))
    _, run = model.hidden(ids())
    hook.remove()
    expected = functional.binary_cross_entropy_with_logits(found[0], taken[0].double())
    assert run.losses[0].item() == pytest.approx(0.001 * expected.item(), rel=1e-4)


def test_tokens_that_left_are_not_computed():
    def flops(stack: dict[str, Any]) -> int:
        model = model_of(stack, layers=6, attention="eager").train()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(ids())
        return counter.get_total_flops()

    all_of_them, half = flops({"kind": "recursive"}), flops({"kind": "routed_recursive"})
    assert 0.6 * all_of_them < half < 0.87 * all_of_them


def test_the_meter_reports_what_the_window_ran():
    model = model_of({"kind": "routed_recursive", "routing": "token"}, layers=6)
    meter, taken = ExecutedDepth(), taken_of(model)
    meter.open("cpu")
    with torch.no_grad():
        model(ids(1))
        meter.start()
        model(ids(2))
        meter.stop()
    share = taken[1].float().mean().item()
    values = meter.readings(Window(Work(1), [], [], 0, 0)).values
    assert values["executed_depth_ratio"] == pytest.approx((2 + 2 + 2 * share) / 6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Recursive(1), "recursions"),
        (lambda: MixtureOfRecursions(slack=0), "slack"),
        (lambda: MixtureOfRecursions(routing="other"), "routing"),  # type: ignore[arg-type]
        (lambda: model_of({"kind": "recursive", "recursions": 4}), "do not divide into 4 runs"),
    ],
)
def test_what_cannot_be_is_refused(wrong: Callable[[], Any], said: str):
    with pytest.raises(ValueError, match=said):
        wrong()


def test_layers_that_do_not_divide_are_skipped(context_of: Callable[..., Any]):
    assert "do not divide" in str(MixtureOfRecursions(3).skip_reason(context_of()))
    assert MixtureOfRecursions(2).skip_reason(context_of()) is None
