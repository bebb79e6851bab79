"""Norms that are constant products, taken into the linear layers that read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.decoder.blocks.pre_norm import PreNorm
from harness.decoder.feed_forwards.dense import Dense
from harness.decoder.mixers.full import Full
from harness.decoder.mixers.linformer import Linformer
from harness.decoder.mixers.window import Window
from harness.decoder.model import DecoderForCausalLM
from harness.decoder.norms.unified import Unified
from harness.decoder.stacks.layers import Layers


class TakenIn(nn.Identity):
    """Where a norm was."""


def fuse(wrapped: Any) -> int:
    """Take every unified norm into its readers, as for inference, and leave nothing in its place; how many were.

    A norm stays where its readers are not all known to be plain linear layers, or where one serves another purpose,
    as an output layer that shares its weights with the embeddings does.
    """
    fused, model = 0, next((module for module in wrapped.modules() if isinstance(module, DecoderForCausalLM)), None)
    if model is None:
        return 0
    for block in model.stack.blocks if type(model.stack) is Layers else ():
        # What reads the mixer's input beside the mixer is a router, which a dense feed-forward has not.
        if type(block) is not PreNorm or type(block.feed_forward) is not Dense:
            continue
        fused += _take_in(block, "feed_forward_norm", [block.feed_forward.gate, block.feed_forward.up])
        if type(block.mixer) in (Full, Window, Linformer):
            fused += _take_in(block, "mixer_norm", [block.mixer.query, block.mixer.key, block.mixer.value])
    if model.lm_head.weight is not model.embeddings.weight:
        fused += _take_in(model, "norm", [model.lm_head])
    return fused


def _take_in(owner: nn.Module, name: str, readers: list[Any]) -> int:
    norm = getattr(owner, name)
    if type(norm) is not Unified or not all(_is_plain(reader) for reader in readers):
        return 0
    gain, bias = norm.constants()
    with torch.no_grad():
        for reader in readers:
            weight = reader.weight.float()
            added = weight @ bias + (0.0 if reader.bias is None else reader.bias.float())
            reader.weight.copy_(weight * gain)
            reader.bias = nn.Parameter(added.to(reader.weight.dtype), reader.weight.requires_grad)
    setattr(owner, name, TakenIn())
    return 1


def _is_plain(reader: nn.Module) -> bool:
    """Whether a linear layer is torch's own, its weights stored as they are: no adapter, nothing packed."""
    return type(reader) is nn.Linear and type(reader.weight.data) is Tensor
