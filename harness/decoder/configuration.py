"""The configuration of a decoder made of parts."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

MODEL_TYPE = "harness_decoder"
#: Each place's folder and what stands there unless something else is named.
PLACES = {
    "mixer": ("mixers", "full"),
    "feed_forward": ("feed_forwards", "dense"),
    "position": ("positions", "rope"),
    "norm": ("norms", "rms"),
    "linear": ("linears", "plain"),
    "block": ("blocks", "pre_norm"),
    "stack": ("stacks", "layers"),
    "objective": ("objectives", "next_token"),
}


class DecoderConfig(PreTrainedConfig):
    """Llama's sizes, and the parts by place (`PLACES`)."""

    model_type = MODEL_TYPE

    def __init__(
        self,
        vocab_size: int = 256,
        hidden_size: int = 128,
        intermediate_size: int = 448,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        max_position_embeddings: int = 2048,
        rms_norm_eps: float = 1e-5,
        rope_parameters: dict[str, Any] | None = None,
        initializer_range: float = 0.02,
        attention_bias: bool = False,
        mixer: dict[str, Any] | list[dict[str, Any]] | None = None,
        feed_forward: dict[str, Any] | list[dict[str, Any]] | None = None,
        position: dict[str, Any] | list[dict[str, Any]] | None = None,
        norm: dict[str, Any] | None = None,
        linear: dict[str, Any] | None = None,
        block: dict[str, Any] | None = None,
        stack: dict[str, Any] | None = None,
        objective: dict[str, Any] | None = None,
        tie_word_embeddings: bool = False,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_parameters = rope_parameters or {"rope_type": "default", "rope_theta": 10000.0}
        self.initializer_range = initializer_range
        #: Biases of queries, keys and values alone, as Qwen2 has them.
        self.attention_bias = attention_bias
        given = {
            "mixer": mixer,
            "feed_forward": feed_forward,
            "position": position,
            "norm": norm,
            "linear": linear,
            "block": block,
            "stack": stack,
            "objective": objective,
        }
        for place, (_, kind) in PLACES.items():
            setattr(self, place, given[place] or {"kind": kind})
        self.tie_word_embeddings = tie_word_embeddings
        self.bos_token_id, self.eos_token_id = bos_token_id, eos_token_id
        super().__init__(**others)

    def part(self, place: str, layer: int = 0) -> dict[str, Any]:
        """What stands at a place in a layer: its kind and options."""
        found = getattr(self, place)
        return found[layer % len(found)] if isinstance(found, list) else found
