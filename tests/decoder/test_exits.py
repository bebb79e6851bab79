"""Early exits against a dense reference that holds what left, and the losses and costs of all exits by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from harness.decoder.parts import Run
from harness.interfaces import Window, Work
from harness.meters.executed_depth import ExecutedDepth
from harness.models.architecture import build
from harness.run.closed_forms import forms_of
from harness.run.flops import cost_of
from harness.techniques.depth.multi_exit import MultiExit

SHAPE: dict[str, Any] = {
    "model_type": "harness_decoder",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "objective": {"kind": "exits"},
}
BATCH, LENGTH = 3, 40
WINDOW = Window(Work(1), [], [], 0, 0)


def model_of(every: int = 1, threshold: float = 0.9, attention: str = "sdpa", **changes: Any) -> Any:
    stack = {"kind": "exits", "every": every, "threshold": threshold}
    options = {"dtype": "float32", "attn_implementation": attention}
    model = build({**SHAPE, "stack": stack, **changes}, options, "cpu", 0)
    torch.manual_seed(0)
    with torch.no_grad():  # larger weights than at the start, so that layers turn tokens by different angles
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


def dense(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and who ran each layer: every layer computes all tokens, and what left keeps what it left with."""
    hidden, stack = model.embeddings(tokens), model.stack
    stays, ran = torch.ones(tokens.shape, dtype=torch.bool), []
    for slot, block in enumerate(stack.blocks):
        ran.append(stays)
        after = torch.where(stays[..., None], block(hidden, Run(0, torch.arange(tokens.shape[1])[None]), slot), hidden)
        if slot + 1 in stack.after:
            stays = stays & (functional.cosine_similarity(after, hidden, dim=-1) <= stack.threshold)
        hidden = after
    return model.lm_head(model.norm(hidden)), ran


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("threshold", [0.8, 0.9, 0.95])
def test_what_left_stays_as_it_was_and_is_still_looked_at(every: int, threshold: float, attention: str):
    model = model_of(every, threshold, attention)
    with torch.no_grad():
        expected, ran = dense(model, ids())
        found = model(ids()).logits
    assert torch.allclose(found, expected, atol=1e-8 if attention == "sdpa" else 1e-5)
    assert ran[every - 1].all()
    assert not ran[every].all()


def test_tokens_do_leave_and_not_all_at_once():
    with torch.no_grad():
        _, ran = dense(model_of(1, 0.95), ids())
    shares = [layer.double().mean().item() for layer in ran]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
    assert 0.05 < shares[-1] < 0.95


def test_at_a_threshold_of_one_all_layers_run():
    model, plain = model_of(1, 1.0), model_of(1, 0.9)
    layers = build(
        {**SHAPE, "stack": {"kind": "layers"}}, {"dtype": "float32", "attn_implementation": "sdpa"}, "cpu", 0
    )
    layers.double().load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(ids()).logits, layers(ids()).logits)
        assert not torch.allclose(model(ids()).logits, plain(ids()).logits)
    assert cost_of(model).forward_flops(9, (1, 9)) == cost_of(layers).forward_flops(9, (1, 9))


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_a_cache_changes_nothing_however_a_sequence_is_cut(slope: float):
    model = model_of(1, 0.95)
    if slope:  # a position that adds to the scores, as ALiBi does
        model.positions[0].bias = lambda query, key: slope * (key[:, None] - query[..., None])[:, None].double()
    with torch.no_grad():
        whole = model(ids()).logits
        assert torch.allclose(whole, dense(model, ids())[0], atol=1e-8)
        for cuts in ([1] * LENGTH, [7, 1, 30, 2], [LENGTH - 1, 1]):
            cache = DynamicCache(config=model.config)
            found = [model(part, past_key_values=cache, use_cache=True).logits for part in ids().split(cuts, 1)]
            assert torch.allclose(whole, torch.cat(found, 1), atol=1e-8)
            assert cache.get_seq_length(5) == LENGTH


def test_the_loss_weighs_each_exit_by_its_depth():
    model = model_of(2).train()
    hidden, run, losses = model.embeddings(ids()), Run(0, torch.arange(LENGTH)[None]), []
    for slot, block in enumerate(model.stack.blocks):
        hidden = block(hidden, run, slot)
        if slot in (1, 3, 5):
            logits = model.lm_head(model.norm(hidden))
            losses.append(functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids()[:, 1:].flatten()))
    expected = (2 * losses[0] + 4 * losses[1] + 6 * losses[2]) / 12
    found = model(ids(), labels=ids())
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        assert torch.allclose(found.logits, logits)


def test_training_costs_the_closed_form_exits_and_all():
    model = model_of(2, attention="eager").train()
    with FlopCounterMode(display=False) as forward:
        loss = model(ids(), labels=ids()).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    cost, tokens = cost_of(model), BATCH * LENGTH
    assert forward.get_total_flops() == cost.forward_flops(tokens, (LENGTH, LENGTH))
    assert backward.get_total_flops() == cost.backward_flops(tokens, (LENGTH, LENGTH))


def test_inference_costs_no_less_than_the_closed_form_which_is_reached():
    def flops(threshold: float) -> tuple[float, float]:
        model = model_of(2, threshold, attention="eager")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(ids(), use_cache=False)
        least = cost_of(model).forward_flops(BATCH * LENGTH, (LENGTH, LENGTH))
        assert least is not None
        return counter.get_total_flops(), least

    executed, least = flops(0.001)  # a threshold that all tokens pass at once
    assert executed == least
    executed, same = flops(0.9)
    assert executed > same == least


def test_all_layers_keep_all_tokens():
    forms = forms_of(model_of(2))
    assert forms
    assert forms.held_bytes(LENGTH, 8) == 6 * 2 * 2 * 8 * LENGTH * 8
    assert forms.read_bytes(LENGTH, 8) == forms.held_bytes(LENGTH, 8) / 3


def test_the_meter_reports_what_the_window_ran():
    model, meter = model_of(1, 0.95), ExecutedDepth()
    meter.open("cpu")
    with torch.no_grad():
        model(ids(1))
        meter.start()
        model(ids(2))
        meter.stop()
        _, ran = dense(model, ids(2))
    share = torch.stack(ran).double().mean().item()
    assert meter.readings(WINDOW).values["executed_depth_ratio"] == pytest.approx(share)
    meter.start()
    meter.stop()
    assert meter.readings(WINDOW).values["executed_depth_ratio"] is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: MultiExit(0), "every"),
        (lambda: MultiExit(threshold=1.5), "threshold"),
        (lambda: model_of(6), "no exit after 6 of 6 layers"),
    ],
)
def test_what_cannot_be_is_refused(wrong: Callable[[], Any], said: str):
    with pytest.raises(ValueError, match=said):
        wrong()


def test_no_layer_after_the_first_exit_is_skipped(context_of: Callable[..., Any]):
    assert "no exit" in str(MultiExit(4).skip_reason(context_of()))
