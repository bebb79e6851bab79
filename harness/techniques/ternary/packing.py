"""When ternary weights are packed."""

from __future__ import annotations

from typing import Any

from harness.interfaces import Context


def trains(context: Context) -> bool:
    """Whether the workload needs the full-precision weights behind the ternary ones."""
    return bool({"optimizer", "training_step"} & context.workload.moments)


def packed_for_inference(model: Any, context: Context) -> Any:
    """The model with its ternary layers packed, unless the workload trains them."""
    from harness.decoder.linears.ternary import pack_layers

    return model if trains(context) else pack_layers(model)
