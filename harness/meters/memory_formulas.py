"""What the weights, gradients, optimizer and cache should hold by formula; None with a reason where none applies."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from typing import Any

from harness.meters.memory_owners import Owners, is_packed
from harness.run.closed_forms import forms_of

#: States as large as the parameter that an optimizer keeps for each: Adam two moments, 8 bytes in float32 (Kingma and
#: Ba 2015, algorithm 1), Lion one (Chen et al. 2023, algorithm 2). Exact classes: a subclass may keep others.
STATES = {"torch.optim.adam.Adam": 2, "torch.optim.adamw.AdamW": 2, "lion_pytorch.lion_pytorch.Lion": 1}
NAMES = (
    "expected_weights_bytes",
    "expected_gradient_bytes",
    "expected_optimizer_state_bytes",
    "expected_kv_cache_bytes",
)


def expectations(owners: Owners) -> dict[str, int | float | str]:
    """Each of `NAMES`: bytes, or the reason why there is no formula."""
    trained = [item for made in owners.optimizers for group in made.param_groups for item in group["params"]]
    return {
        "expected_weights_bytes": _weights(owners),
        "expected_gradient_bytes": _plain_bytes(trained) or "no optimizer, so no gradient is kept",
        "expected_optimizer_state_bytes": _optimizer_states(owners.optimizers),
        "expected_kv_cache_bytes": _caches(owners),
    }


def _weights(owners: Owners) -> int | str:
    """Parameters that the architecture has when built anew without data, times the bytes of the model's dtype."""
    import torch

    models = [model for model in owners.models() if any(True for _ in model.parameters())]
    pretrained = getattr(sys.modules.get("transformers"), "PreTrainedModel", None)
    if len(models) != 1 or pretrained is None or not isinstance(models[0], pretrained):
        return "the model is more or other than one architecture of transformers"
    (model,) = models
    if any(is_packed(item) or item.dtype != model.dtype for item in model.parameters()):
        return "not all weights are plain tensors of one dtype"
    with torch.device("meta"):
        empty = type(model)(copy.deepcopy(model.config))
    return sum(item.numel() for item in empty.parameters()) * model.dtype.itemsize


def _plain_bytes(parameters: Iterable[Any]) -> int:
    return sum(item.numel() * item.dtype.itemsize for item in parameters)


def _optimizer_states(optimizers: list[Any]) -> int | str:
    if not optimizers:
        return "there is no optimizer"
    total = 0
    for made in optimizers:
        name = f"{type(made).__module__}.{type(made).__name__}"
        if name not in STATES or made.defaults.get("amsgrad"):
            return f"no formula here for {name}"
        total += STATES[name] * sum(_plain_bytes(group["params"]) for group in made.param_groups)
    return total


def _caches(owners: Owners) -> float | str:
    """Numbers kept of a token x tokens that there is room for x sequences x bytes of the dtype."""
    if not owners.caches:
        return "there is no cache"
    configs = [model for model in owners.models() if hasattr(model, "config") and hasattr(model, "dtype")]
    forms = forms_of(configs[0]) if len(configs) == 1 else None
    if forms is None:
        return "no formula here for this architecture's cache"
    total = 0.0
    for cache in owners.caches:
        kind, filled = (
            type(cache).__name__,
            [layer for layer in cache.layers if getattr(layer, "keys", None) is not None],
        )
        if kind not in ("DynamicCache", "StaticCache"):
            return f"no formula here for {kind}"
        if filled:
            tokens = filled[0].max_cache_len if kind == "StaticCache" else filled[0].get_seq_length()
            total += forms.held_bytes(tokens, configs[0].dtype.itemsize) * filled[0].keys.shape[0]
    return total or "the cache is empty"
