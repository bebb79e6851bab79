"""Some of each sequence's tokens, moved together: as many layers run as there are tokens that stay in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.decoder.parts import LayerState, Run


@dataclass(frozen=True)
class Chosen:
    """The chosen tokens of each sequence in their order, and behind them others up to the longest choice.

    What stands behind is computed with and thrown away: causality keeps it from what was chosen.
    """

    #: (batch, longest): places in the sequence they were chosen from, each at most once.
    places: Tensor
    #: (batch, longest): whether the place was chosen.
    real: Tensor

    @property
    def longest(self) -> int:
        """Tokens of the longest choice."""
        return self.places.shape[1]

    def of(self, values: Tensor) -> Tensor:
        """Those of (batch, tokens, width), or of (batch, tokens)."""
        if values.ndim == 2:
            return values.gather(1, self.places)
        return values.gather(1, self.places[..., None].expand(-1, -1, values.shape[2]))

    def put(self, values: Tensor, changed: Tensor) -> Tensor:
        """`values` with the chosen places changed."""
        kept = torch.where(self.real[..., None], changed, self.of(values))
        return values.scatter(1, self.places[..., None].expand_as(kept), kept)


def choose(mask: Tensor, longest: int | None = None) -> Chosen:
    """The places where a (batch, tokens) mask is true; asks the device how many unless `longest` says so."""
    counts = mask.sum(1)
    longest = int(counts.max()) if longest is None else longest
    places = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    return Chosen(places, torch.arange(longest, device=mask.device) < counts[:, None])


@dataclass(frozen=True)
class RaggedState(LayerState):
    """Keys and values of sequences that kept different numbers of tokens, each row filled from its left end."""

    #: (batch): tokens kept before this pass.
    before: Tensor
    #: Numbers of the longest row after this pass.
    total: int

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Set each row's new ones behind its old ones; return all."""
        kept = self.extras
        if "key" in kept:
            key, value = (self._joined(kept[name], new) for name, new in (("key", key), ("value", value)))
        kept["key"], kept["value"] = key, value
        return key, value

    def _joined(self, old: Tensor, new: Tensor) -> Tensor:
        both = torch.cat([old, new], 2)
        places = torch.arange(self.total, device=new.device)
        later = (places - self.before[:, None] + old.shape[2]).clamp_max(both.shape[2] - 1)
        source = torch.where(places < self.before[:, None], places, later)
        return both.gather(2, source[:, None, :, None].expand(-1, both.shape[1], -1, both.shape[3]))


@dataclass
class RaggedRun(Run):
    """A pass of chosen tokens; its layers keep `RaggedState`s."""

    before: Tensor | None = None
    total: int = 0

    def state(self, slot: int) -> LayerState | None:
        """What the layer of this slot keeps of the tokens that were chosen for it."""
        if self.cache is None:
            return None
        assert self.before is not None
        return RaggedState(self.cache, slot, self.before, self.total)


def ragged_run(run: Run, chosen: Chosen, positions: Tensor, before: Tensor, most: int, total: int) -> RaggedRun:
    """The part of `run` that the chosen tokens make.

    Rows kept `before` tokens of earlier passes, `most` at most, and keep `total` at most now. Without earlier ones the
    plain causal mask holds, because what was chosen comes first in each row.
    """
    allowed = None
    if most:
        behind = before[:, None] + torch.arange(chosen.longest, device=before.device)
        allowed = (torch.arange(total, device=before.device) <= behind[..., None])[:, None]
    return RaggedRun(
        run.first, positions, run.cache, run.training, run.losses, allowed=allowed, before=before, total=total
    )


class Tally:
    """How many of the offered passes of a token through a layer were made, counted where they are made."""

    def __init__(self) -> None:
        self.offered = 0
        self.made: Any = 0

    def add(self, offered: int, made: Tensor | int) -> None:
        """Count; `made` may lie on a device, which is not asked now."""
        self.offered += offered
        self.made = self.made + (made.detach() if isinstance(made, Tensor) else made)

    def ratio(self) -> float | None:
        """The share made since the last call, or None if none were offered."""
        found = float(self.made) / self.offered if self.offered else None
        self.offered, self.made = 0, 0
        return found
