"""What mixing tokens costs, by closed form, layer kinds and all: multiply-adds, and bytes kept and read.

A kind of model that is not known here has no closed form, and whatever follows from one is null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Forms:
    """Of all layers together, for one sequence."""

    #: Multiply-adds of one token beyond its linear layers, averaged over tokens whose contexts (the positions up to and
    #: with themselves) run evenly from the first number to the last.
    mixing: Callable[[float, float], float]
    #: Bytes that are kept of a sequence of so many tokens, with numbers of so many bytes.
    held_bytes: Callable[[int, int], float]
    #: Bytes of them that the next token must read at least.
    read_bytes: Callable[[int, int], float]


def forms_of(model: Any) -> Forms | None:
    """The closed forms of a model: its own where it has a `closed_forms`, else by its configuration."""
    own = getattr(model, "closed_forms", None)
    return own() if own is not None else forms_of_configuration(model.config)


def forms_of_configuration(config: Any) -> Forms | None:
    """The closed forms of a transformers model whose layers all attend to every position before; else None."""
    heads, layers = getattr(config, "num_attention_heads", None), getattr(config, "num_hidden_layers", None)
    if not heads or not layers or not _attends_to_all(config):
        return None
    if getattr(config, "kv_lora_rank", None):
        width = config.qk_nope_head_dim + config.qk_rope_head_dim
        held = layers * heads * (width + config.v_head_dim)  # transformers caches keys and values, not their latents
        return full_attention(layers * heads * (width + config.v_head_dim), held)
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return full_attention(2.0 * layers * heads * width, 2.0 * layers * groups * width)


def full_attention(multiply_adds: float, kept_numbers: float) -> Forms:
    """Of attention to all positions: multiply-adds for each query and key, and numbers kept of each position."""

    def held(tokens: int, element_bytes: int) -> float:
        return kept_numbers * tokens * element_bytes

    return Forms(lambda first, last: multiply_adds * (first + last) / 2, held, held)


def _attends_to_all(config: Any) -> bool:
    """Whether every layer attends to every position before: no window, no layers of another kind."""
    window = getattr(config, "sliding_window", None)
    narrow = window is not None and window < getattr(config, "max_position_embeddings", window + 1)
    return not narrow and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
