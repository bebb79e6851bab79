"""Root mean square normalization."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.decoder.configuration import DecoderConfig


def rms(config: DecoderConfig, width: int) -> Any:
    """Torch's own, at the configuration's epsilon (Zhang and Sennrich 2019, equation 4)."""
    return nn.RMSNorm(width, eps=config.rms_norm_eps)


PART: Any = rms
