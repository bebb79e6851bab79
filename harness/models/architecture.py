"""From an architecture as plain data to a transformers model, with random weights or none."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from harness.models.closed_forms import say_forms


def configuration(architecture: Mapping[str, Any]) -> Any:
    """The transformers configuration; ValueError for an unknown model type or field, or heads that do not divide."""
    from transformers import AutoConfig

    from harness.plan.building import nearest

    facts = copy.deepcopy(dict(architecture))  # transformers fills nested dictionaries in place
    model_type = facts.pop("model_type", None)
    if model_type == "harness_decoder":
        from harness.decoder.model import register

        register()
    try:
        config_class = type(AutoConfig.for_model(model_type))
    except ValueError as error:
        raise ValueError(f"model_type {model_type!r} is not known to transformers; name one of its models") from error
    known = _fields(config_class)
    for key in facts:
        if key not in known:
            raise ValueError(f"{config_class.__name__} has no field {key!r}.{nearest(key, known)}")
    _check_heads(facts)
    return config_class(**facts)


def build_empty(config: Any) -> Any:
    """The model of a transformers configuration without data, for its shapes."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return say_forms(AutoModelForCausalLM.from_config(config))


def build(architecture: Mapping[str, Any], options: Mapping[str, Any], device: str, seed: int) -> Any:
    """A model with seeded random weights, made on the device in its final dtype without a copy on the host."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, options["dtype"])
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            configuration(architecture), dtype=dtype, attn_implementation=options["attn_implementation"]
        )
    return quantized(model, options, device).eval()


def quantized(model: Any, options: Mapping[str, Any], device: str) -> Any:
    """The same weights through transformers' quantizing loader, when a technique asked for it."""
    import torch

    if "quantization_config" not in options:
        return say_forms(model)
    loaded = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        quantization_config=options["quantization_config"],
        attn_implementation=options["attn_implementation"],
        dtype=getattr(torch, options["dtype"]),
        device_map={"": device},
    )
    # A state dict without a checkpoint behind it is unusual: a weight that was not taken over would be random.
    if not torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight):
        raise RuntimeError("the quantizing loader did not take over the weights it was given")
    return say_forms(loaded)


def _fields(config_class: type) -> set[str]:
    names = set(vars(config_class()))
    if dataclasses.is_dataclass(config_class):
        names |= {item.name for item in dataclasses.fields(config_class)}
    names |= set(inspect.signature(config_class.__init__).parameters) | set(getattr(config_class, "attribute_map", {}))
    return {name for name in names if not name.startswith("_")} - {"self", "kwargs", "args"}


def _check_heads(facts: Mapping[str, Any]) -> None:
    hidden, heads = facts.get("hidden_size"), facts.get("num_attention_heads")
    groups = facts.get("num_key_value_heads")
    if hidden and heads and "head_dim" not in facts and "qk_rope_head_dim" not in facts and hidden % heads:
        raise ValueError(f"hidden_size {hidden} does not divide by num_attention_heads {heads}; change one of them")
    if heads and groups and heads % groups:
        raise ValueError(
            f"num_attention_heads {heads} does not divide by num_key_value_heads {groups}; use a divisor of {heads}"
        )
