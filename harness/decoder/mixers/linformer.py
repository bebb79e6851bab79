"""Attention to a few learned summaries of what lies further back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.attention import attend, causal
from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.full import Full
from harness.decoder.parts import Position, Run
from harness.decoder.sums import mean_over


class Slots(nn.Module):
    """The projections E and F of the paper's equation 7: a block's keys and values to a few of each."""

    def __init__(self, block: int, slots: int, numbers: int) -> None:
        super().__init__()
        # Of this size, slots are about as large as what they sum up.
        self.key = nn.Parameter(torch.randn(slots, block) / math.sqrt(block))
        self.value = nn.Parameter(torch.randn(slots, block) / math.sqrt(block))
        #: Each weight multiplies every number of a position's keys, once in a block.
        self.runs_per_token = numbers / block

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, groups, blocks * block, width) each to (batch, groups, blocks * slots, width)."""
        block = self.key.shape[1]
        key, value = (part.unflatten(2, (-1, block)) for part in (key, value))
        return (self.key @ key).flatten(2, 3), (self.value @ value).flatten(2, 3)


class Linformer(Full):
    """A token sees its own block exactly, and each finished block before as `slots` projected keys and values.

    Source: Wang et al. 2020 (arXiv 2006.04768), section 4. This is a causal adaptation and not the published method,
    which projects the whole sequence at once, later positions too, and so cannot generate. All heads of a layer
    share its two projections ("headwise" sharing, section 4). Rotary positions turn the keys before they are projected.

    Over many tokens both kinds of scores go through one softmax that stores them, whatever the backend; a fused
    kernel that returns the softmax's normalizer (flash attention) would let the two be merged without.
    """

    def __init__(self, config: DecoderConfig, layer: int, position: Position, block: int = 16, slots: int = 4) -> None:
        super().__init__(config, layer, position)
        if type(position).bias is not Position.bias:
            raise ValueError("linformer sums positions up, so none has a distance; take a position without biases")
        self.block, self.slots = block, slots
        self.project = Slots(block, slots, self.groups * self.width)

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        query, key, value = self.projected(hidden, run)
        state = run.state(slot)
        kept = {} if state is None else state.extras
        if kept:
            key, value = torch.cat([kept["key"], key], 2), torch.cat([kept["value"], value], 2)
        # Finished blocks of earlier calls, and those that these tokens finish.
        before = (kept["slot_key"], kept["slot_value"]) if kept else (key[:, :, :0].clone(), value[:, :, :0].clone())
        finished = key.shape[2] // self.block * self.block
        new = self.project(key[:, :, :finished], value[:, :, :finished]) if finished else before
        slot_key, slot_value = (torch.cat(both, 2) for both in zip(before, new, strict=True)) if finished else before
        if state is not None:
            kept["key"], kept["value"] = key[:, :, finished:].clone(), value[:, :, finished:].clone()
            kept["slot_key"], kept["slot_value"] = slot_key, slot_value
        if query.shape[2] == 1:
            # A block that this token finishes is still seen exactly.
            seen = [torch.cat(both, 2) for both in zip(before, (key, value), strict=True)]
            return self.joined(attend(query, *seen, backend=self.backend))
        return self.joined(self._in_blocks(query, key, value, slot_key, slot_value, before[0].shape[2]))

    def _in_blocks(
        self, query: Tensor, key: Tensor, value: Tensor, slot_key: Tensor, slot_value: Tensor, before: int
    ) -> Tensor:
        """Softmax over the slots of earlier blocks and the own block; `before` slots are earlier than any query."""
        block, tokens, known, shared = self.block, query.shape[2], key.shape[2], self.heads // self.groups
        # Queries that nobody asked stand before the first one, so that queries and keys start with a block.
        query = functional.pad(query, (0, 0, known - tokens, -known % block)) / math.sqrt(self.width)
        query = query.unflatten(1, (self.groups, shared))
        key, value = (
            functional.pad(part, (0, 0, 0, -known % block)).unflatten(2, (-1, block)) for part in (key, value)
        )
        own = query.unflatten(3, (-1, block)) @ key[:, :, None].transpose(-1, -2)
        own = own.masked_fill(~causal(block, block, query.device), -math.inf)
        far = (query.flatten(2, 3) @ slot_key.transpose(-1, -2)).unflatten(2, own.shape[2:5])
        blocks, slots = (torch.arange(count, device=query.device) for count in (own.shape[3], far.shape[-1]))
        seen = slots < before + self.slots * blocks[:, None]
        far = far.masked_fill(~seen[:, None], -math.inf)
        weights = torch.cat([far, own], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
        far, own = weights.split([far.shape[-1], block], -1)
        mixed = own @ value[:, :, None] + (far.flatten(2, 4) @ slot_value).unflatten(2, own.shape[2:5])
        return mixed.flatten(3, 4).flatten(1, 2)[:, :, known - tokens : known]

    def mixing(self, first: float, last: float) -> float:
        def total(contexts: int) -> float:
            blocks, rest = divmod(contexts, self.block)
            exact = blocks * self.block * (self.block + 1) / 2 + rest * (rest + 1) / 2
            return exact + self.slots * (self.block * blocks * (blocks - 1) / 2 + rest * blocks)

        return 2.0 * self.heads * self.width * mean_over(total, first, last)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        finished, rest = divmod(tokens, self.block)
        return super().held_bytes(finished * self.slots + rest, element_bytes)


PART: Any = Linformer
