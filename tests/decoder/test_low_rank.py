"""Linear layers as products of two, against the whole layers that they multiply out to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from harness.decoder.linears.low_rank import LowRank
from harness.techniques.low_rank.factored import LowRankTransformer
from harness.techniques.positions.rotary import Rotary


def built(context_of: Any, technique: Any, **architecture: Any) -> Any:
    context = context_of(technique, **architecture)
    assert technique.skip_reason(context) is None
    return context.model.load(context)


def test_the_factors_are_the_whole_layers_of_their_product(context_of: Any):
    factored, whole = (built(context_of, technique) for technique in (LowRankTransformer(8), Rotary()))
    state = factored.state_dict()
    for name, module in factored.named_modules():
        if isinstance(module, LowRank):
            state[f"{name}.weight"] = module.up.weight @ module.down.weight
            del state[f"{name}.up.weight"], state[f"{name}.down.weight"]
    whole.load_state_dict(state)
    ids = torch.randint(0, 256, (2, 30))
    with torch.no_grad():
        assert torch.allclose(factored(ids).logits, whole(ids).logits, atol=1e-5)


def test_parameters_are_those_of_the_factors(context_of: Any):
    model = built(context_of, LowRankTransformer(32))
    layer = 4 * 32 * (128 + 128) + 3 * 32 * (128 + 448) + 2 * 128
    assert sum(p.numel() for p in model.parameters()) == 4 * layer + 2 * 256 * 128 + 128


def test_a_layer_that_would_not_shrink_stays_whole(context_of: Any):
    model = built(context_of, LowRankTransformer(32), num_key_value_heads=1, model_type="qwen2")
    mixer = model.stack.blocks[0].mixer
    assert (type(mixer.query), type(mixer.key), type(mixer.value)) == (LowRank, nn.Linear, nn.Linear)
    assert mixer.query.up.bias is not None


def test_the_product_begins_with_the_spread_of_a_whole_layer(context_of: Any):
    model = built(context_of, LowRankTransformer(32), initializer_range=0.05)
    gate = model.stack.blocks[1].feed_forward.gate
    assert (gate.up.weight @ gate.down.weight).std().item() == pytest.approx(0.05, rel=0.15)


def test_a_rank_that_saves_nothing_is_skipped_with_the_most_that_does(context_of: Any):
    for rank, reason in ((100, "a rank of 100 makes no layer smaller here; take 99 or less"), (99, None)):
        assert LowRankTransformer(rank).skip_reason(context_of()) == reason
    with pytest.raises(ValueError, match="at least 1"):
        LowRankTransformer(0)
