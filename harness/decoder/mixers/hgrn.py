"""A gated recurrence of single numbers: each channel forgets and takes in by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Position, Run, linear


class Recurrence(Mixer):
    """MLGRU (MatMul-free LM, arXiv 2406.02528, section 3.3.1), after HGRN (arXiv 2311.04823).

    f = sigmoid(W_f x), c = silu(W_c x), h = f h' + (1 - f) c, output W_o (sigmoid(W_g x) h). Nothing of h' enters the
    gates, so all tokens are scanned at once. Positions are not told: the recurrence knows the order. The state is kept
    in float32 at least.

    Slower here than it need be: the scan passes over memory log2(tokens) times; a kernel that holds the state in
    registers, such as HGRN's in flash-linear-attention, passes over it once.
    """

    def __init__(self, config: DecoderConfig, layer: int, position: Position) -> None:
        super().__init__(config, layer)
        self.width = config.hidden_size
        self.forget, self.candidate, self.gate, self.output = (
            linear(config, self.width, self.width, bias=True) for _ in range(4)
        )

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        # The state sums over all of the past, so half precision is not enough for it.
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        forget = self.forget(hidden).to(dtype).sigmoid()
        taken = (1 - forget) * functional.silu(self.candidate(hidden).to(dtype))
        state = run.state(slot)
        if state is not None and "state" in state.extras:
            before = state.extras["state"]
            taken = torch.cat([taken[:, :1] + forget[:, :1] * before, taken[:, 1:]], 1)
        states = scan(forget, taken)
        if state is not None:
            state.extras["state"] = states[:, -1:].clone()
        return self.output(self.gate(hidden).sigmoid() * states.to(hidden.dtype))

    def mixing(self, first: float, last: float) -> float:
        """One multiply-add for each channel, since f h' + (1 - f) c = c + f (h' - c)."""
        return float(self.width)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return float(max(4, element_bytes) * self.width)


class _Scan(torch.autograd.Function):
    """The backward pass is the same scan from the end, so that no step between needs to be kept."""

    @staticmethod
    def forward(ctx: Any, forget: Tensor, taken: Tensor) -> Tensor:
        states = _doubling(forget, taken)
        ctx.save_for_backward(forget, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        forget, states = ctx.saved_tensors
        later = functional.pad(forget[:, 1:], (0, 0, 0, 1))
        reached = _doubling(later.flip(1), gradients[0].flip(1)).flip(1)
        return reached * functional.pad(states[:, :-1], (0, 0, 1, 0)), reached


def scan(forget: Tensor, taken: Tensor) -> Tensor:
    """h[t] = forget[t] h[t-1] + taken[t] along the tokens of (batch, tokens, width), with nothing before the first."""
    found: Any = _Scan.apply(forget, taken)
    return found


def _doubling(forget: Tensor, taken: Tensor) -> Tensor:
    """Each round joins stretches of twice the length (Hillis and Steele 1986); factors at most 1 keep it stable."""
    reach = 1
    while reach < taken.shape[1]:
        taken = torch.cat([taken[:, :reach], taken[:, reach:] + forget[:, reach:] * taken[:, :-reach]], 1)
        forget = torch.cat([forget[:, :reach], forget[:, reach:] * forget[:, :-reach]], 1)
        reach *= 2
    return taken


PART: Any = Recurrence
