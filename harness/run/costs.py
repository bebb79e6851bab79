"""What a model costs by its shapes alone: parameters, and operations and kept bytes of a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.interfaces import Context
from harness.run.closed_forms import forms_of
from harness.run.flops import active_parameters, cost_of

NO_FORM = "this architecture has no closed form of it"


@dataclass(frozen=True)
class Costs:
    """Of one model; None where there is no closed form."""

    parameters: int
    #: Parameters that one token meets.
    active_parameters: float
    #: Of a token's forward pass, the mean over a sequence under a causal mask.
    forward_flops: float | None
    #: Kept of a token by a cache that the model's dtype fills, the mean over a sequence.
    cache_bytes: float | None


def costs_of(model: Any, tokens: int, element_bytes: int | None = None) -> Costs:
    """The costs of a model, data or none, in sequences of `tokens`, with cached numbers of `element_bytes`."""
    forms, flops = forms_of(model), cost_of(model).forward_flops(tokens, (1, tokens))
    return Costs(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        active_parameters=active_parameters(model),
        forward_flops=None if flops is None else flops / tokens,
        cache_bytes=None if forms is None else forms.held_bytes(tokens, element_bytes or model.dtype.itemsize) / tokens,
    )


def cost_columns(context: Context, loaded: Any) -> tuple[dict[str, float | None], dict[str, str]]:
    """Columns of the model as its architecture is built and of the untouched one, and a reason for each null.

    What techniques add after loading, such as adapters, is in `parameter_count` alone. Cached numbers are of the loaded
    model's dtype; what a cache of another kind holds, such as a quantized one, is in `kv_cache_bytes`.
    """
    tokens = context.workload.context_tokens()
    try:
        own = costs_of(context.model.empty(context.configuring), tokens, loaded.dtype.itemsize)
        untouched = costs_of(context.model.empty(()), tokens)
    except NotImplementedError:
        names = [f"{side}{name}" for side in ("", "baseline_") for name in ("parameter_count", *_columns(None))]
        names.remove("parameter_count")
        return dict.fromkeys(names), dict.fromkeys(names, "this model tells no shapes without being loaded")
    found = {
        **_columns(own),
        "baseline_parameter_count": untouched.parameters,
        **{f"baseline_{name}": value for name, value in _columns(untouched).items()},
    }
    return {"token_context_count": tokens, **found}, {name: NO_FORM for name, value in found.items() if value is None}


def _columns(costs: Costs | None) -> dict[str, float | None]:
    return {
        "active_parameter_count": costs and costs.active_parameters,
        "token_forward_flops": costs and costs.forward_flops,
        "token_cache_bytes": costs and costs.cache_bytes,
    }
