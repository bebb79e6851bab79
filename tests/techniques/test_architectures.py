"""What every technique owes that changes the architecture: causal, one with its cache, trainable, of known cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from harness.interfaces import moments
from harness.plan.building import make, make_part
from harness.run.closed_forms import forms_of
from harness.run.flops import cost_of
from harness.run.tensors import reachable_bytes

CONF = Path(__file__).parents[2] / "conf" / "technique"


def technique(name: str) -> Any:
    """The technique of a YAML, with its own options."""
    return make("technique", make_part("technique", name, yaml.safe_load((CONF / f"{name}.yaml").read_text())))


NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if "configure" in moments(technique(path.stem)))
BATCH, LENGTH = 2, 70


@pytest.fixture(params=NAMES)
def built(request: pytest.FixtureRequest, context_of: Callable[..., Any]) -> Any:
    """The tiny model with one technique, in evaluation mode."""
    chosen = technique(request.param)
    context = context_of(chosen)
    reason = chosen.skip_reason(context)
    if reason and "not installed" in reason:
        pytest.skip(reason)
    assert reason is None
    model = chosen.transform(context.model.load(context), context)
    if model.config.model_type != "harness_decoder":
        model.config._experts_implementation = "eager"  # transformers' grouped kernel knows no double precision
    # In double precision: rounding and thresholds inside a model turn the last bits of single precision into steps.
    return _awake(model.double()).eval()


def _awake(model: Any) -> Any:
    """Random numbers in place of every constant: gates and scales that begin at zero would hide what they gate."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and parameter.unique().numel() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def new_cache(model: Any) -> Any:
    return DynamicCache(config=model.config)


def ids() -> Any:
    return torch.randint(0, 256, (BATCH, LENGTH), generator=torch.Generator().manual_seed(2))


def test_a_later_token_changes_nothing_earlier(built: Any):
    tokens = ids()
    with torch.no_grad():
        before = built(input_ids=tokens, use_cache=False).logits
        for place in (1, 33, LENGTH - 1):
            other = tokens.clone()
            other[:, place:] = (other[:, place:] + 7) % 256
            after = built(input_ids=other, use_cache=False).logits
            assert torch.allclose(before[:, :place], after[:, :place], atol=1e-5)
            assert not torch.allclose(before[:, place:], after[:, place:], atol=1e-5)


def test_a_cache_changes_nothing(built: Any):
    tokens, cache = ids(), new_cache(built)
    with torch.no_grad():
        whole = built(input_ids=tokens, use_cache=False).logits
        found = [built(input_ids=tokens[:, :50], past_key_values=cache, use_cache=True).logits]
        for place in range(50, LENGTH):
            found.append(built(input_ids=tokens[:, place : place + 1], past_key_values=cache, use_cache=True).logits)
    assert torch.allclose(whole, torch.cat(found, 1), atol=1e-4)


def test_a_sequence_may_come_in_two_parts(built: Any):
    tokens, cache = ids(), new_cache(built)
    with torch.no_grad():
        whole = built(input_ids=tokens, use_cache=False).logits
        parts = (tokens[:, :37], tokens[:, 37:])
        found = [built(input_ids=part, past_key_values=cache, use_cache=True).logits for part in parts]
    assert torch.allclose(whole, torch.cat(found, 1), atol=1e-4)


def test_every_parameter_is_trained(built: Any):
    built.train()
    for parameter in built.parameters():
        parameter.grad = None
    for seed in range(8):  # a mixture's tokens may leave an expert out of one batch
        torch.manual_seed(seed)
        tokens = torch.randint(0, 256, (4, LENGTH))
        built(input_ids=tokens, labels=tokens).loss.backward()
    untrained = [name for name, item in built.named_parameters() if item.grad is None or not item.grad.any()]
    assert untrained == []


def test_a_cache_holds_what_the_closed_form_says(built: Any):
    forms = forms_of(built)
    assert forms is not None, "give this architecture closed forms"
    tokens, cache = ids(), new_cache(built)
    with torch.no_grad():
        built(input_ids=tokens, past_key_values=cache, use_cache=True)
    assert reachable_bytes(cache) == pytest.approx(BATCH * forms.held_bytes(LENGTH, 8), rel=0.01)
    assert 0 < forms.read_bytes(LENGTH, 8) <= forms.held_bytes(LENGTH, 8)


def test_no_more_flops_are_required_than_are_done(built: Any):
    tokens = ids()
    built.config._experts_implementation = "eager"
    if hasattr(built, "set_attn_implementation"):
        built.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built(input_ids=tokens, use_cache=False)
    required = cost_of(built).forward_flops(tokens.numel(), (1, LENGTH))
    assert required is not None
    assert 0.3 * counter.get_total_flops() < required <= 1.001 * counter.get_total_flops()
