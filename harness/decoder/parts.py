"""What each part of a decoder is: the classes that a kind's module implements, and how a kind is found."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.decoder.configuration import PLACES, DecoderConfig

#: What transformers' caches have no place for (running states, compressed keys) hangs on the cache under this name, and
#: how many tokens it has seen under the other.
EXTRAS, SEEN = "harness_layer_extras", "harness_tokens_seen"


@dataclass(frozen=True)
class LayerState:
    """What one layer keeps of the sequences so far, inside a transformers cache."""

    cache: Any
    slot: int

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append (batch, key-value heads, tokens, width) each; return all of the sequence."""
        tokens = key.shape[2]
        key, value = self.cache.update(key, value, self.slot)
        if not self.cache.is_compileable:
            return key, value
        seen = getattr(self.cache, SEEN, 0) + tokens  # a static cache returns all that it has room for
        return key[:, :, :seen], value[:, :, :seen]

    @property
    def extras(self) -> dict[str, Any]:
        """Tensors of any name; whatever lies here counts as bytes of the cache."""
        return self.cache.__dict__.setdefault(EXTRAS, {}).setdefault(self.slot, {})


@dataclass
class Run:
    """One forward pass: where its tokens are, what is kept of earlier ones, and what training adds to the loss."""

    #: Tokens that the cache had seen before these.
    first: int
    #: Absolute positions, (1 or batch, tokens).
    positions: Tensor
    cache: Any = None
    training: bool = False
    #: Scalars that are added to the loss.
    losses: list[Tensor] = field(default_factory=list)
    #: True where a query may look, causality included, if that is not all that came before: (batch, 1, queries, keys).
    allowed: Tensor | None = None
    #: Hidden states from which training predicts beside the last ones.
    exits: list[Tensor] = field(default_factory=list)
    #: What a layer tells later ones, each under a name of its own.
    told: dict[str, Any] = field(default_factory=dict)

    def state(self, slot: int) -> LayerState | None:
        """What the layer of this slot keeps, or None without a cache."""
        return None if self.cache is None else LayerState(self.cache, slot)


class Mixer(nn.Module):
    """Mixes tokens causally: (batch, tokens, hidden) to the same shape.

    `forward(hidden, run, slot)` may be called with all tokens of a sequence, with the next many, or with the next one;
    what it keeps for later calls it keeps in `run.state(slot)`. The closed forms are per layer and sequence.
    """

    def __init__(self, config: DecoderConfig, layer: int, **options: Any) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        """Mix."""
        raise NotImplementedError

    def mixing(self, first: float, last: float) -> float:
        """Multiply-adds of a token beyond the linear layers, mean over contexts from `first` to `last`."""
        raise NotImplementedError

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        """Bytes kept of a sequence of so many tokens."""
        raise NotImplementedError

    def read_bytes(self, tokens: int, element_bytes: int) -> float:
        """Bytes of them that the next token must read at least."""
        return self.held_bytes(tokens, element_bytes)


class FeedForward(nn.Module):
    """Works on each token alone: (batch, tokens, hidden) to the same shape.

    `before` is the normalized input of the block's mixer, for routers that look there.
    """

    def __init__(self, config: DecoderConfig, layer: int, **options: Any) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, run: Run, before: Tensor) -> Tensor:
        """Transform."""
        raise NotImplementedError


class Position(nn.Module):
    """Tells where a token is, in one of three ways or none; the defaults do nothing."""

    #: How many places there are, or None where a sequence may be of any length.
    places: int | None = None

    def __init__(self, config: DecoderConfig, **options: Any) -> None:
        super().__init__()

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """Added to the embeddings, once before the first layer: (batch, tokens, hidden)."""
        return hidden

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Applied to queries and to keys: (batch, heads, tokens, width)."""
        return heads

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """Added to the scores: (1 or batch, heads, queries, keys), or None."""
        return None


class Block(nn.Module):
    """One layer: `forward(hidden, run, slot)`; `mixers()` lists what it mixes with, for the closed forms."""

    def __init__(self, config: DecoderConfig, layer: int, positions: nn.ModuleList, **options: Any) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        """Apply."""
        raise NotImplementedError

    def mixers(self) -> list[Mixer]:
        """Every mixer that a token passes."""
        raise NotImplementedError


class Stack(nn.Module):
    """All layers: `forward(hidden, run)` to hidden states before the last norm."""

    def __init__(self, config: DecoderConfig, positions: nn.ModuleList, **options: Any) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, run: Run) -> Tensor:
        """Apply."""
        raise NotImplementedError

    def mixers(self) -> list[tuple[Mixer, float]]:
        """Every mixer, and how often a token passes it."""
        raise NotImplementedError


class Objective(nn.Module):
    """What training minimizes: `forward(model, input_ids, labels)` to (logits, loss)."""

    #: How often it passes a batch while training.
    passes: float = 1.0

    def __init__(self, config: DecoderConfig, **options: Any) -> None:
        super().__init__()

    def forward(self, model: Any, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the mean loss in nats."""
        raise NotImplementedError


def kinds(place: str) -> list[str]:
    """The kinds that a place knows."""
    folder = importlib.import_module(f"harness.decoder.{PLACES[place][0]}")
    return sorted(item.name for item in pkgutil.iter_modules(folder.__path__))


def make(place: str, config: DecoderConfig, *arguments: Any, layer: int = 0) -> Any:
    """The part that `config` names for a place, made with `(config, *arguments, **options)`.

    ValueError for a kind or an option that there is not.
    """
    options = dict(config.part(place, layer))
    kind = options.pop("kind", None)
    if kind not in kinds(place):
        raise ValueError(f"{place} {kind!r} is none of: {', '.join(kinds(place))}")
    part = importlib.import_module(f"harness.decoder.{PLACES[place][0]}.{kind}").PART
    known = set(inspect.signature(part).parameters)
    for option in options:
        if option not in known:
            raise ValueError(f"{place} {kind!r} has no option {option!r}")
    return part(config, *arguments, **options)


def linear(config: DecoderConfig, inputs: int, outputs: int, bias: bool = False) -> Any:
    """A linear layer of the kind that the configuration names."""
    return make("linear", config, inputs, outputs, bias)


def norm(config: DecoderConfig, width: int | None = None) -> Any:
    """A normalization over `width` (the hidden size unless said) of the kind that the configuration names."""
    return make("norm", config, config.hidden_size if width is None else width)


def zero_of(tensor: Tensor) -> Tensor:
    """A scalar zero on the tensor's device."""
    return torch.zeros((), device=tensor.device)
