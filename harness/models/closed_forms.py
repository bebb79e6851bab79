"""What mixing tokens costs in transformers' models, by model type; a type that is not named here has no closed form.

Many configurations look like plain attention and are something else (an indexer, a second softmax, compressed keys), so
a type is known only after what it holds and what it computes were counted (tests/run/test_closed_forms.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from harness.run.closed_forms import Forms, full_attention

#: Softmax attention to every position before, one key and one value for each key-value head.
PLAIN = set(
    """
    llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe olmo olmo2 olmoe phi phi3 gemma granite
    granitemoe smollm3 starcoder2 stablelm cohere gpt_neox gpt2 helium glm glm4
    """.split()
)
#: Multi-head latent attention; transformers caches the latents, and expands them for all positions at every step.
LATENT = {"deepseek_v2", "deepseek_v3"}


def say_forms(model: Any) -> Any:
    """Give a model its `closed_forms`, unless it has its own or there are none; returns it."""
    if not hasattr(model, "closed_forms") and known(model.config):
        model.closed_forms = partial(forms_of_configuration, model.config)
    return model


def known(config: Any) -> bool:
    """Whether there are closed forms of this type of model."""
    return config.model_type in PLAIN | LATENT | {"diffllama"}


def forms_of_configuration(config: Any) -> Forms | None:
    """The closed forms of a transformers configuration; None for an unknown type, a window, or mixed layers."""
    if not known(config) or not _attends_to_all(config):
        return None
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    if config.model_type in LATENT:
        width = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
        return full_attention(layers * heads * width, layers * (config.kv_lora_rank + config.qk_rope_head_dim))
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    products = 3.0 if config.model_type == "diffllama" else 2.0  # its weights meet a pair of values
    return full_attention(products * layers * heads * width, 2.0 * layers * groups * width)


def _attends_to_all(config: Any) -> bool:
    """Whether every layer attends to every position before: no window, no layers of another kind."""
    window = getattr(config, "sliding_window", None) or 0  # Qwen2-MoE says 0 where others say None
    narrow = 0 < window < getattr(config, "max_position_embeddings", window + 1)
    return not narrow and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
