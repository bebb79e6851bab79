"""Torch's linear layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.decoder.configuration import DecoderConfig


def plain(config: DecoderConfig, inputs: int, outputs: int, bias: bool) -> Any:
    """As it is."""
    return nn.Linear(inputs, outputs, bias=bias)


PART: Any = plain
