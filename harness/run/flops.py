"""Operations and bytes that a transformer's method requires, by closed form; what is not known is None.

Model FLOPs count the multiply-adds (two operations each) of matrix products that every implementation must do:
linear layers, experts that a token visits, and causal attention without its masked half. Embedding look-ups, norms and
activations are left out. That recomputation is not counted is PaLM's rule (arXiv 2204.02311, appendix B); its formula
counts attention densely, as the dense variant here does, which includes the masked half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.run.closed_forms import forms_of
from harness.run.tensors import elements

#: The first and the last context of a run of tokens.
Contexts = tuple[float, float]


@dataclass(frozen=True)
class Cost:
    """Sizes of a model, per token."""

    #: Weights that multiply each token, embeddings left out, experts by the share that a token visits.
    active_matmul_weights: float
    #: The part of them that is trained.
    trained_matmul_weights: float
    #: The output layer's part of the active weights; it may run at fewer positions than the rest.
    output_weights: float
    #: Multiply-adds of a token beyond its linear layers, by the first and the last context; None if unknown.
    mixing: Callable[[float, float], float] | None
    #: Bytes of all weights that a step must read at least: embeddings left out, experts by the share visited.
    touched_bytes: float
    #: How often one step of training passes its batch forward and backward; an objective may need several.
    training_passes: float = 1.0

    def forward_flops(self, tokens: int, contexts: Contexts, predicted: int | None = None) -> float | None:
        """FLOPs of `tokens` tokens whose contexts run evenly from the first to the last of `contexts`.

        A context is the positions up to and with the token itself: (1, n) for n tokens under a causal mask, (n, n) with
        the masked half included. `predicted` is the number of positions whose logits are computed, when not all are.
        """
        if self.mixing is None:
            return None
        unpredicted = 0 if predicted is None else tokens - predicted
        each = self.active_matmul_weights + self.mixing(*contexts)
        return 2.0 * (tokens * each - unpredicted * self.output_weights)

    def backward_flops(self, tokens: int, contexts: Contexts) -> float | None:
        """FLOPs of the backward pass: gradients of activations everywhere, of weights where they are trained.

        Where the objective needs more than one pass, those of all that comes after the first forward pass.
        """
        if self.mixing is None:
            return None
        forward, mixing = self.active_matmul_weights + self.mixing(*contexts), 2 * self.mixing(*contexts)
        backward = self.active_matmul_weights + self.trained_matmul_weights + mixing
        return 2.0 * tokens * (self.training_passes * backward + (self.training_passes - 1) * forward)


def cost_of(model: Any) -> Cost:
    """Read the sizes off a loaded model."""
    from harness.run.tensors import storage_bytes

    active = trained = touched = 0.0
    for module, runs in _runs(model, 1.0):
        if type(module).__name__.endswith("Embedding"):
            continue
        share = runs * _visited_share(module, model.config)
        for name, parameter in module.named_parameters(recurse=False):
            weights = _matmul_weights(parameter, module, name) * share
            active += weights
            trained += weights if parameter.requires_grad else 0.0
            touched += storage_bytes([parameter]) * min(1.0, share)
    output = model.get_output_embeddings()
    predicted = sum(_matmul_weights(parameter) for parameter in output.parameters()) if output is not None else 0.0
    forms = forms_of(model)
    passes = getattr(getattr(model, "objective", None), "passes", 1.0)
    return Cost(active, trained, predicted, forms and forms.mixing, touched, passes)


def active_parameters(model: Any) -> float:
    """Parameters that one token meets: of a bank of experts the share that it visits, shared ones once."""
    return sum(
        min(1.0, _visited_share(module, model.config) * runs) * elements(parameter, module, name)
        for module, runs in _runs(model, 1.0)
        for name, parameter in module.named_parameters(recurse=False)
    )


def _runs(module: Any, runs: float, seen: set[int] | None = None) -> Iterator[tuple[Any, float]]:
    """Every module once, with how often a token passes it: a module may say so of itself by `runs_per_token`."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    runs *= getattr(module, "runs_per_token", 1.0)
    yield module, runs
    for child in module.children():
        yield from _runs(child, runs, seen)


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


def _matmul_weights(parameter: Any, module: Any = None, name: str = "") -> float:
    return float(elements(parameter, module, name)) if parameter.ndim >= 2 else 0.0


def _visited_share(module: Any, config: Any) -> float:
    """The share of a module's own parameters that one token meets; below 1 for a bank of experts alone.

    A module may say so of itself by `visited_share`.
    """
    own = getattr(module, "visited_share", None)
    if own is not None:
        return own
    experts = getattr(module, "num_experts", None)
    visited = getattr(config, "num_experts_per_tok", None)
    stacked = any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
    return visited / experts if experts and visited and stacked else 1.0
