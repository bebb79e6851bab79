"""A bank of feed-forward layers of which each token visits a few."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig

ACTIVATIONS = {"silu": functional.silu, "relu": functional.relu}


class Experts(nn.Module):
    """`experts` gated feed-forward layers of `width`, their weights stacked.

    With `absent`, an expert's number of `experts` or above means that the token visits nobody in that place, as
    transformers' own banks have it. `visited` is how many a token visits on average; what a step costs by closed form
    follows from it.
    How the products run is the configuration's `_experts_implementation`, in transformers' words: `eager`, an expert
    after the other; `grouped_mm`, one kernel over tokens sorted by expert; `batched_mm`, every visit with a copy of its
    expert's weights, which pays where tokens are few.
    """

    def __init__(
        self,
        config: DecoderConfig,
        experts: int,
        width: int,
        visited: float,
        activation: str = "silu",
        absent: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.num_experts, self.activation, self.absent = config, experts, activation, absent
        self.visited_share = visited / experts
        spread = config.initializer_range
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, config.hidden_size).normal_(std=spread))
        self.down_proj = nn.Parameter(torch.empty(experts, config.hidden_size, width).normal_(std=spread))

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """(tokens, hidden), and (tokens, places) of experts' numbers and of their weights, to (tokens, hidden)."""
        implementation = {"eager": self._one_by_one, "batched_mm": self._batched}.get(
            str(self.config._experts_implementation), self._grouped
        )
        return implementation(hidden, index, weights)

    def _one_by_one(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        mixed = torch.zeros_like(hidden)
        for expert in range(self.num_experts):
            tokens, places = torch.where(index == expert)
            if tokens.numel():
                inner = self._gated(functional.linear(hidden[tokens], self.gate_up_proj[expert]))
                outcome = functional.linear(inner, self.down_proj[expert])
                mixed = mixed.index_add(0, tokens, outcome * weights[tokens, places, None])
        return mixed

    def _grouped(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        places = index.shape[1]
        numbers, order = index.flatten().sort()
        # Where each expert's tokens end; found on the device, because a count read by the host would wait for it.
        ends = torch.searchsorted(numbers, torch.arange(self.num_experts, device=hidden.device), right=True).int()
        absent = (numbers >= self.num_experts)[:, None]

        def known(rows: Tensor) -> Tensor:
            """The kernel leaves rows after the last end as they were in memory, also in its backward pass."""
            return rows.masked_fill(absent, 0.0) if self.absent else rows

        inner = self._gated(known(grouped(known(hidden[order // places]), self.gate_up_proj, ends)))
        outcome = known(grouped(inner, self.down_proj, ends))
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        return (outcome[back].unflatten(0, (-1, places)) * weights[..., None]).sum(1)

    def _batched(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        if self.absent:
            weights = weights.masked_fill(index >= self.num_experts, 0.0)
            index = index.clamp(max=self.num_experts - 1)
        numbers = index.flatten()
        rows = hidden.repeat_interleave(index.shape[1], 0)[:, :, None]
        inner = self._gated(torch.bmm(self.gate_up_proj[numbers], rows)[..., 0])
        outcome = torch.bmm(self.down_proj[numbers], inner[:, :, None]).view(*index.shape, -1)
        return (outcome * weights[..., None]).sum(1)

    def _gated(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        return ACTIVATIONS[self.activation](gate) * up


def grouped(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """(rows, inputs) by each group's own (outputs, inputs); group `g` is the rows from `ends[g - 1]` to `ends[g]`.

    One kernel where torch has one for these tensors, else a product for each group.
    """
    if _has_kernel(rows, weights):
        return torch._grouped_mm(rows, weights.transpose(1, 2), offs=ends)
    limits = [0, *ends.tolist()]
    parts = [
        rows[start:end] @ weight.T for start, end, weight in zip(limits, limits[1:], weights.unbind(), strict=False)
    ]
    return torch.cat([*parts, rows.new_zeros(rows.shape[0] - limits[-1], weights.shape[1])])


def _has_kernel(rows: Tensor, weights: Tensor) -> bool:
    """Its tensor's rows must lie 16 bytes apart or a multiple; its GPU must be an Ampere or later."""
    if not hasattr(torch, "_grouped_mm") or rows.dtype != weights.dtype or rows.dtype == torch.float64:
        return False
    if any(width * rows.element_size() % 16 for width in weights.shape[1:]):
        return False
    return rows.device.type == "cpu" or torch.cuda.get_device_capability(rows.device) >= (8, 0)
