"""Layer normalization."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.decoder.configuration import DecoderConfig


def layer(config: DecoderConfig, width: int) -> Any:
    """Torch's own, at the configuration's epsilon (Ba, Kiros and Hinton 2016, equation 3), with gains and biases."""
    return nn.LayerNorm(width, eps=config.rms_norm_eps)


PART: Any = layer
