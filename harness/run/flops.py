"""Operations and bytes that a transformer's method requires, by closed form; what is not known is None.

Model FLOPs count the multiply-adds (two operations each) of matrix products that every implementation must do:
linear layers, experts that a token visits, and causal attention without its masked half. Embedding look-ups, norms and
activations are left out. That recomputation is not counted is PaLM's rule (arXiv 2204.02311, appendix B); its formula
counts attention densely, as the dense variant here does, which includes the masked half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Sizes of a model, per token."""

    #: Weights that multiply each token, embeddings left out, experts by the share that a token visits.
    active_matmul_weights: float
    #: The part of them that is trained.
    trained_matmul_weights: float
    #: The output layer's part of the active weights; it may run at fewer positions than the rest.
    output_weights: float
    #: Query-key and attention-value multiply-adds for each token and each position it attends to; None if unknown.
    attention_weights_per_position: float | None
    #: Bytes of all weights that a step must read at least: embeddings left out, experts by the share visited.
    touched_bytes: float

    def forward_flops(self, tokens: int, mean_positions: float, predicted: int | None = None) -> float | None:
        """FLOPs of `tokens` tokens that each attend to `mean_positions` positions on average.

        `predicted` is the number of positions whose logits are computed, when not all of them are.
        """
        if self.attention_weights_per_position is None:
            return None
        unpredicted = 0 if predicted is None else tokens - predicted
        attention = self.attention_weights_per_position * mean_positions
        return 2.0 * (tokens * (self.active_matmul_weights + attention) - unpredicted * self.output_weights)

    def backward_flops(self, tokens: int, mean_positions: float) -> float | None:
        """FLOPs of the backward pass: gradients of activations everywhere, of weights where they are trained."""
        if self.attention_weights_per_position is None:
            return None
        attention = 2 * self.attention_weights_per_position * mean_positions
        return 2.0 * tokens * (self.active_matmul_weights + self.trained_matmul_weights + attention)


def cost_of(model: Any) -> Cost:
    """Read the sizes off a loaded model."""
    from harness.run.tensors import storage_bytes

    active = trained = touched = 0.0
    embeddings = {id(module) for module in model.modules() if type(module).__name__.endswith("Embedding")}
    for module in model.modules():
        if id(module) in embeddings:
            continue
        share = _expert_share(module, model.config)
        for parameter in module.parameters(recurse=False):
            weights = _matmul_weights(parameter) * share
            active += weights
            trained += weights if parameter.requires_grad else 0.0
            touched += storage_bytes([parameter]) * share
    output = model.get_output_embeddings()
    predicted = sum(_matmul_weights(parameter) for parameter in output.parameters()) if output is not None else 0.0
    return Cost(active, trained, predicted, attention_weights(model.config), touched)


def attention_weights(config: Any) -> float | None:
    """Multiply-adds of all layers for one query and one key: heads x (key width + value width); None if unknown."""
    heads, layers = getattr(config, "num_attention_heads", None), getattr(config, "num_hidden_layers", None)
    if not heads or not layers or not _attends_to_all(config):
        return None
    if getattr(config, "kv_lora_rank", None):
        return layers * heads * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2.0 * layers * heads * width


def attention_forward_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """FLOPs of scores and weighted values, dense, from shapes (batch, heads, positions, width).

    Keys and values may have fewer heads than queries: each of them serves several.
    """
    batch, heads, positions, width = query
    return 2 * batch * heads * positions * key[2] * (width + value[3])


def attention_backward_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """FLOPs of a fused kernel's backward pass, dense: scores anew, gradients of scores, values, queries, keys."""
    batch, heads, positions, width = query
    return 2 * batch * heads * positions * key[2] * (3 * width + 2 * value[3])


def cache_bytes_per_token(config: Any, element_bytes: int) -> float | None:
    """Bytes of keys and values that one token adds to an unquantized cache; None if unknown."""
    heads, layers = getattr(config, "num_attention_heads", None), getattr(config, "num_hidden_layers", None)
    if not heads or not layers or getattr(config, "kv_lora_rank", None) or not _attends_to_all(config):
        return None
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2.0 * layers * groups * width * element_bytes


def _attends_to_all(config: Any) -> bool:
    """Whether every layer attends to every position before: no window, no layers of another kind."""
    window = getattr(config, "sliding_window", None)
    narrow = window is not None and window < getattr(config, "max_position_embeddings", window + 1)
    return not narrow and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}


def _matmul_weights(parameter: Any) -> float:
    packed = getattr(parameter, "quant_state", None)
    if packed is not None:  # bitsandbytes keeps two 4-bit values in a byte
        return float(packed.shape.numel())
    return float(parameter.numel()) if parameter.ndim >= 2 else 0.0


def _expert_share(module: Any, config: Any) -> float:
    """The share of a module's experts that one token visits; 1 for everything that is not a bank of experts."""
    experts = getattr(module, "num_experts", None)
    visited = getattr(config, "num_experts_per_tok", None)
    stacked = any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
    return visited / experts if experts and visited and stacked else 1.0
