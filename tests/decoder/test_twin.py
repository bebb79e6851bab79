"""The decoder made of parts, with its default parts, against transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import StaticCache

from harness.models.architecture import build, configuration
from harness.run.closed_forms import forms_of
from harness.run.flops import active_parameters, cost_of
from harness.techniques.twin import no_twin, with_part

TINY = yaml.safe_load((Path(__file__).parents[2] / "conf/model/tiny_llama.yaml").read_text())["architecture"]
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "wide heads": {"head_dim": 48},
    "tied": {"tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 1},
    "mistral": {"model_type": "mistral", "sliding_window": None},
}
NAMES = {
    "model.embed_tokens": "embeddings",
    "model.norm": "norm",
    "model.layers": "stack.blocks",
    "self_attn.q_proj": "mixer.query",
    "self_attn.k_proj": "mixer.key",
    "self_attn.v_proj": "mixer.value",
    "self_attn.o_proj": "mixer.output",
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
    "input_layernorm": "mixer_norm",
    "post_attention_layernorm": "feed_forward_norm",
}


def renamed(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_twin_computes_what_the_original_does(shape: dict[str, Any], attention: str):
    architecture, options = {**TINY, **shape}, {"dtype": "float32", "attn_implementation": attention}
    original = build(architecture, options, "cpu", 0)
    twin = build(with_part(architecture, "mixer", {"kind": "full"}), options, "cpu", 1)
    twin.load_state_dict({renamed(name): value for name, value in original.state_dict().items()})
    tokens = torch.randint(1, 256, (2, 40))  # `generate` takes 0 for padding
    with torch.no_grad():
        assert torch.allclose(original(tokens).logits, twin(tokens).logits, atol=1e-5)
    assert twin(tokens, labels=tokens).loss.item() == pytest.approx(
        original(tokens, labels=tokens).loss.item(), rel=1e-5
    )
    greedy: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(original.generate(tokens, **greedy), twin.generate(tokens, **greedy))
    assert active_parameters(original) == active_parameters(twin)
    theirs, ours = cost_of(original), cost_of(twin)
    assert theirs.forward_flops(40, (1, 40)) == ours.forward_flops(40, (1, 40))
    assert theirs.touched_bytes == ours.touched_bytes
    both = forms_of(original), forms_of(twin)
    assert both[0]
    assert both[1]
    assert both[0].held_bytes(40, 4) == both[1].held_bytes(40, 4)


@pytest.mark.parametrize(
    ("part", "said"),
    [({"kind": "fulll"}, "mixer 'fulll' is none of: "), ({"kind": "full", "widht": 1}, "has no option 'widht'")],
)
def test_a_part_that_there_is_not_is_named(part: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        build(with_part(TINY, "mixer", part), {"dtype": "float32", "attn_implementation": "sdpa"}, "cpu", 0)


def test_layers_take_parts_in_turn():
    config = configuration(with_part(TINY, "position", [{"kind": "rope"}, {"kind": "rope", "theta": 5.0}]))
    assert [config.part("position", layer).get("theta") for layer in range(4)] == [None, 5.0, None, 5.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"model_type": "gpt2"}, "no twin of 'gpt2'"), ({"rope_parameters": {"rope_type": "yarn"}}, "rotary")],
)
def test_an_architecture_without_a_twin_says_why(change: dict[str, Any], said: str):
    assert said in str(no_twin({**TINY, **change}))


def test_a_static_cache_changes_nothing():
    options = {"dtype": "float32", "attn_implementation": "sdpa"}
    model = build(with_part({**TINY, "num_key_value_heads": 2}, "mixer", {"kind": "full"}), options, "cpu", 1)
    tokens, cache = torch.randint(0, 256, (2, 30)), StaticCache(config=model.config, max_cache_len=48)
    parts = [tokens[:, :20], *tokens[:, 20:].split(1, 1)]
    with torch.no_grad():
        whole = model(tokens).logits
        found = [model(part, past_key_values=cache, use_cache=True).logits for part in parts]
    assert torch.allclose(whole, torch.cat(found, 1), atol=1e-5)
