"""Recurrences over the sequence in forms that run many tokens at once: by chunks, or by doubling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Tokens that are worked on together; quadratic work within, a state passed on between.
CHUNK = 64
#: The logarithm of nothing: far below any exponent that occurs, and still a number that can be subtracted.
NOTHING = -1e30


def decayed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    strength: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Linear attention whose state decays: S = exp(log_decay) S + key value', read by query S; returns the last S too.

    Queries and keys are (batch, heads or 1, tokens, width), values (batch, heads, tokens, width), decays (batch or 1,
    heads, tokens), the state (batch, heads, key width, value width) in float32. With `strength` the update is the delta
    rule's: what the decayed state already says under the key is first taken from the value (Yang et al. 2025, equation
    10), by the triangular system of Yang et al. 2024, equations 10 and 11. Products run in the values' type as the
    published kernels do; decays, the triangular system and the state in float32. Decays between tokens are
    differences of sums over a chunk, with the sum's rounding: about 1e-5 of a decay where a chunk's is exp(-200).
    """
    tokens, dtype = value.shape[2], value.dtype
    count = math.ceil(tokens / CHUNK)
    size = math.ceil(tokens / count)
    missing = count * size - tokens  # at the end, where a key of zeros adds nothing and a decay of 1 takes nothing
    query, key, value = (
        functional.pad(item, (0, 0, 0, missing)).unflatten(2, (count, size)) for item in (query, key, value)
    )
    decay = functional.pad(log_decay.float(), (0, missing)).unflatten(2, (count, size)).cumsum(-1)
    earlier = torch.ones(size, size, dtype=torch.bool, device=value.device).tril()
    between = (decay[..., :, None] - decay[..., None, :]).masked_fill(~earlier, -math.inf).exp()
    old: Tensor | None = None
    if strength is not None:
        strength = functional.pad(strength.float(), (0, missing)).unflatten(2, (count, size))[..., None]
        weighted = strength * key.float()
        system = (weighted @ key.float().transpose(-1, -2) * between).tril(-1)
        right = torch.cat([strength * value.float(), weighted * decay.exp()[..., None]], -1)
        if size > 1:
            right = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        value, old = right.to(dtype).split([value.shape[-1], key.shape[-1]], -1)
    within = (query @ key.transpose(-1, -2)) * between.to(dtype)
    entering = (query * decay.exp()[..., None]).to(dtype)
    leaving = (key * (decay[..., -1:] - decay).exp()[..., None]).to(dtype).transpose(-1, -2)
    passed = decay[..., -1, None, None].exp()
    if state is None:
        batch, heads = value.shape[:2]
        state = torch.zeros(batch, heads, key.shape[-1], value.shape[-1], device=value.device)
    outputs = []
    for place in range(count):
        now = value[:, :, place]
        if old is not None:
            now = now - old[:, :, place] @ state.to(dtype)
        outputs.append(within[:, :, place] @ now + entering[:, :, place] @ state.to(dtype))
        state = state * passed[:, :, place] + (leaving[:, :, place] @ now).float()
    return torch.cat(outputs, 2)[:, :, :tokens], state


def least(by_state: float, by_pair: float, first: float, last: float) -> float:
    """Multiply-adds of a token in the cheaper of two forms: through the state, or with each position before.

    Over few tokens the second needs less, and it is what one chunk without a state does.
    """
    return min(by_state, by_pair * (first + last) / 2)


def weighted_averages(
    key: Tensor, value: Tensor, decay: Tensor, bonus: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """RWKV's averages of values (Peng et al. 2023, equation 16), and the state after the last token.

    Keys and values are (batch, tokens, channels); `decay` (taken from the exponent with every step) and `bonus` (added
    for the token itself) are by channel. The state is (batch, 3, channels): weighted sum, sum of weights, and the
    logarithm by which both are scaled. All states are found by doubling, in log2(tokens) steps (Hillis and Steele
    1986), each sum scaled by the largest of its exponents.
    """
    key, value, decay, bonus = (item.float() for item in (key, value, decay, bonus))
    if state is None:
        state = torch.zeros(key.shape[0], 3, key.shape[2], device=key.device)
        state[:, 2] = NOTHING
    # The scale is a constant to the gradient: it cancels, and only what it leaves of the exponent counts.
    scale = torch.cat([state[:, None, 2], key], 1).detach()
    weight = torch.cat([state[:, None, 1], (key - key.detach()).exp()], 1)
    total = torch.cat([state[:, None, 0], value * (key - key.detach()).exp()], 1)
    step = 1
    while step < scale.shape[1]:
        later, former = scale[:, step:], scale[:, :-step] - step * decay
        top = torch.maximum(later, former).detach()
        keep, add = (later - top).exp(), (former - top).exp()
        total = torch.cat([total[:, :step], total[:, step:] * keep + total[:, :-step] * add], 1)
        weight = torch.cat([weight[:, :step], weight[:, step:] * keep + weight[:, :-step] * add], 1)
        scale = torch.cat([scale[:, :step], top], 1)
        step *= 2
    before, own = scale[:, :-1], key + bonus
    top = torch.maximum(before, own).detach()
    keep, add = (before - top).exp(), (own - top).exp()
    average = (total[:, :-1] * keep + value * add) / (weight[:, :-1] * keep + add)
    return average, torch.stack([total[:, -1], weight[:, -1], scale[:, -1]], 1)


class ShortConvolution(nn.Module):
    """Each channel mixes its last `kernel` numbers, and SiLU; keeps the last `kernel` - 1 in `kept` under a name."""

    def __init__(self, channels: int, kernel: int, bias: bool) -> None:
        super().__init__()
        # Torch's own initial values of such a convolution: uniform within one over the root of the kernel.
        bound = kernel**-0.5
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def forward(self, hidden: Tensor, kept: dict[str, Any] | None, name: str = "convolution") -> Tensor:
        """(batch, tokens, channels) to the same shape."""
        kernel, channels = self.weight.shape[2], hidden.shape[2]
        before = None if kept is None else kept.get(name)
        if before is None:
            before = hidden.new_zeros(hidden.shape[0], kernel - 1, channels)
        hidden = torch.cat([before, hidden], 1)
        if kept is not None:
            kept[name] = hidden[:, hidden.shape[1] - (kernel - 1) :].clone()
        mixed = functional.conv1d(hidden.transpose(1, 2), self.weight, self.bias, groups=channels)
        return functional.silu(mixed.transpose(1, 2))


def log_decay_rates(heads: int) -> tuple[nn.Parameter, nn.Parameter]:
    """The logarithm of each head's rate of decay and the bias of its step, as Mamba and its followers begin.

    Rates are uniform between 1 and 16, steps log-uniform between 0.001 and 0.1 (Dao and Gu 2024, their released code).
    """
    rates = torch.empty(heads).uniform_(1, 16)
    steps = torch.empty(heads).uniform_(math.log(0.001), math.log(0.1)).exp()
    return nn.Parameter(rates.log()), nn.Parameter(steps + (-torch.expm1(-steps)).log())
