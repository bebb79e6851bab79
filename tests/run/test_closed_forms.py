"""Closed forms of transformers' models: each type that is known is counted, and what only looks alike has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from harness.models.architecture import build, build_empty, configuration
from harness.models.closed_forms import LATENT, PLAIN, forms_of_configuration
from harness.models.hf import HF
from harness.run.closed_forms import forms_of
from harness.run.tensors import reachable_bytes

CONF = Path(__file__).parents[2] / "conf" / "model"
TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
LATENTS: dict[str, Any] = {
    **EXPERTS,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
#: What a type needs beside the tiny sizes, or None for a size that it does not have.
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"num_key_value_heads": None, "intermediate_size": None},
    "gpt_neox": {"num_key_value_heads": None},
    "mistral": {"sliding_window": None},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "helium": {"head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**EXPERTS, "num_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "starcoder2": {"sliding_window": None},
    "deepseek_v2": LATENTS,
    "deepseek_v3": LATENTS,
}


def tiny(model_type: str) -> dict[str, Any]:
    """A tiny architecture of a type."""
    facts = {**TINY, **OWN.get(model_type, {}), "model_type": model_type}
    left_out = ("num_key_value_heads", "intermediate_size")  # gpt2 and gpt_neox have no such fields
    return {key: value for key, value in facts.items() if value is not None or key not in left_out}


def flops(model: Any, tokens: int) -> int:
    """What torch counts in a pass over so many tokens."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(tokens)[None] % 64, use_cache=False)
    return counter.get_total_flops()


@pytest.mark.parametrize("model_type", sorted(PLAIN | LATENT | {"diffllama"}))
def test_a_known_type_holds_and_computes_what_its_closed_form_says(model_type: str):
    model = build(tiny(model_type), {"dtype": "float32", "attn_implementation": "eager"}, "cpu", 0)
    model.config._experts_implementation = "eager"
    forms = forms_of(model)
    assert forms is not None
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.arange(46).view(2, 23), past_key_values=cache, use_cache=True)
    assert reachable_bytes(cache) == 2 * forms.held_bytes(23, 4)
    # What is linear in the tokens cancels, and what is left is attention, its masked half included.
    quadratic = flops(model, 24) - 2 * flops(model, 12)
    required = 2 * 24 * (forms.mixing(24, 24) - forms.mixing(12, 12))
    if model_type == "diffllama":  # its scores are made twice
        required *= 4 / 3
    assert quadratic == required


SHELF = {path.stem: yaml.safe_load(path.read_text()).get("architecture") for path in sorted(CONF.glob("*.yaml"))}


@pytest.mark.parametrize("name", [name for name, facts in SHELF.items() if facts])
def test_every_architecture_of_the_shelf_has_closed_forms(name: str):
    assert forms_of(HF(architecture=SHELF[name]).empty(())) is not None


@pytest.mark.parametrize(
    "facts",
    [
        {"model_type": "deepseek_v32"},
        {"model_type": "gemma2"},
        {"model_type": "mistral", "sliding_window": 16},
        {"model_type": "qwen3_next"},
        {"model_type": "mamba2"},
    ],
    ids=lambda facts: facts["model_type"],
)
def test_what_is_not_known_to_attend_to_all_has_no_closed_form(facts: dict[str, Any]):
    assert forms_of_configuration(configuration(facts)) is None


def test_a_model_without_closed_forms_stays_without():
    config = configuration({**TINY, "model_type": "gemma2", "head_dim": 8, "pad_token_id": 0})
    assert forms_of(build_empty(config)) is None


def test_latents_are_what_a_published_model_holds_of_a_token():
    facts = yaml.safe_load((CONF / "deepseek_v2_lite.yaml").read_text())["architecture"]
    forms = forms_of_configuration(configuration(facts))
    assert forms is not None
    assert forms.held_bytes(1, 2) == 27 * (512 + 64) * 2
