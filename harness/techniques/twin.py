"""From a transformers architecture to the same model made of parts, so that a technique can change one of them."""

from __future__ import annotations

from typing import Any

#: Architectures whose twin computes the same numbers from the same weights.
TWINS = ("llama", "mistral", "qwen2", "harness_decoder")
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "initializer_range",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
)


def no_twin(architecture: dict[str, Any]) -> str | None:
    """Why an architecture has no twin, or None where it has one."""
    kind = architecture.get("model_type")
    if kind not in TWINS:
        return f"no twin of {kind!r} made of parts; {', '.join(TWINS[:-1])} have one"
    if kind == "mistral" and architecture.get("sliding_window"):
        return "the twin has no sliding window; set model.architecture.sliding_window=null"
    if architecture.get("rope_parameters", {}).get("rope_type", "default") != "default":
        return "the twin knows the default rotary positions alone"
    return None


def with_part(architecture: dict[str, Any], place: str, part: Any) -> dict[str, Any]:
    """The twin of `architecture` with another part at one place; what other places hold stays."""
    if architecture.get("model_type") == "harness_decoder":
        return {**architecture, place: part}
    sizes = {key: architecture[key] for key in _SIZES if key in architecture}
    biased = architecture["model_type"] == "qwen2" or architecture.get("attention_bias", False)
    return {"model_type": "harness_decoder", **sizes, "attention_bias": biased, place: part}
