"""Unified normalization: statistics of the batch, smoothed over steps, that are constants after training."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from harness.decoder.configuration import DecoderConfig


class Unified(nn.Module):
    """Each channel over its root mean square among all tokens of the batch, then a gain and a bias.

    Source: Yang et al. 2022 (arXiv 2208.01313): the geometric mean of the last `window` steps' mean squares
    forward, the arithmetic mean of as many of the gradient's statistics backward; a step whose statistics scatter too
    much is left to its own (adaptive outlier filtration). The first `warmup` steps use their own statistics too. The
    paper trains with windows of 4 and a warm-up of 4,000 steps for translation. The authors' code adds a running mean
    to the gradient's statistic and a rescaling from step 1,000 on; both are left out.

    In training a token meets statistics of later ones. In evaluation they are constants, the running mean of
    training's: the norm is causal then, and no more than a product that the next linear layer can take in
    (`harness.decoder.fusing`). A model that never trained has ones. The recent steps are not saved with the weights,
    and a step whose forward pass runs twice, as with recomputed activations, counts twice.
    """

    def __init__(self, config: DecoderConfig, width: int, window: int = 4, warmup: int = 10) -> None:
        super().__init__()
        self.epsilon, self.window, self.warmup = config.rms_norm_eps, window, warmup
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running", torch.ones(width, dtype=torch.float32))
        self.squares: deque[Tensor] = deque(maxlen=window)
        self.slopes: deque[Tensor] = deque(maxlen=window)
        self.steps = 0

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training:
            gain, bias = self.constants()
            return hidden * gain.to(hidden.dtype) + bias.to(hidden.dtype)
        flat = hidden.flatten(0, -2)
        with torch.no_grad():
            square, outlier = self._statistics(flat.float().square().mean(0))
        normalized = _Normalize.apply(flat, square + self.epsilon, outlier, self.slopes)
        return normalized.view_as(hidden) * self.weight + self.bias

    def constants(self) -> tuple[Tensor, Tensor]:
        """What evaluation multiplies by and adds, in float32."""
        scale = (self.get_buffer("running").float() + self.epsilon).rsqrt()
        return self.weight.float() * scale, self.bias.float()

    def _statistics(self, square: Tensor) -> tuple[Tensor, Tensor | None]:
        """The mean squares to divide by, and whether this step is an outlier; None where nothing is smoothed yet."""
        running = self.get_buffer("running")
        self.steps += 1
        outlier = None
        recorded = square
        if self.steps > max(self.warmup, self.window):
            recent = torch.stack([*list(self.squares)[1:], square]).clamp(min=1e-30)
            smooth = recent.log().mean(0).exp()
            # The scatter of the roots bounds the gap of the two means, unless the newest step lies far off.
            scatter = torch.stack(list(self.squares)).sqrt().var()
            outlier = (recent.mean(0) - smooth > self.window * scatter).any()
            recorded = torch.where(outlier, running.float(), square)
            square = torch.where(outlier, square, smooth)
        self.squares.append(recorded)
        # At first a plain mean, or the ones of the beginning would weigh on short trainings.
        running.lerp_(square.to(running.dtype), max(0.1, 1 / self.steps))
        return square, outlier


class _Normalize(torch.autograd.Function):
    """x over the root of a mean square; backward with the mean of the recent steps' statistic of the gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, square: Tensor, outlier: Tensor | None, slopes: deque[Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        scale = square.rsqrt().to(hidden.dtype)
        normalized = hidden * scale
        ctx.save_for_backward(normalized, scale)
        ctx.outlier, ctx.slopes = outlier, slopes
        return normalized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        normalized, scale = ctx.saved_tensors
        slope, slopes = (gradient.float() * normalized.float()).mean(0), ctx.slopes
        if ctx.outlier is None or not slopes:
            slopes.append(slope)
        else:
            slopes.append(torch.where(ctx.outlier, torch.stack(list(slopes)).mean(0), slope))
            slope = torch.where(ctx.outlier, slope, torch.stack(list(slopes)).mean(0))
        return (gradient - slope.to(gradient.dtype) * normalized) * scale, None, None, None


PART: Any = Unified
