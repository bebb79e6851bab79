"""Layers that a token leaves once they no longer change it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.attention import attend
from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Run
from harness.decoder.ragged import Chosen, Tally, choose
from harness.decoder.stacks.layers import Layers


class Exits(Layers):
    """An exit after each `every` layers: a token leaves when its hidden state is as its last layer found it.

    In evaluation it leaves when the cosine similarity of the two is above `threshold` (MuE, arXiv 2211.11152; the
    saturation of hidden states in CALM, arXiv 2207.07061), and what it left with goes to the last norm and the
    output layer. Later tokens look for its keys and values in every layer, so the layers above still make these from
    what it left with (CALM's state propagation), but neither a query nor anything that follows. At a threshold of 1
    none leaves. While training all run all layers, and each exit is predicted from (`objectives/exits.py`).

    Tokens that left are not computed. Sequences of a batch run side by side, as long as the one with the most tokens
    left; how many that is, the device is asked at each exit. What runs depends on the text, so the closed forms in
    evaluation are the least that any text needs: all layers up to the first exit, then keys and values alone.
    """

    def __init__(self, config: DecoderConfig, positions: nn.ModuleList, every: int = 1, threshold: float = 1.0) -> None:
        super().__init__(config, positions)
        layers = config.num_hidden_layers
        if not 0 < every < layers:
            raise ValueError(f"no exit after {every} of {layers} layers; every must lie between 1 and {layers - 1}")
        kinds = {config.part("mixer", layer)["kind"] for layer in range(layers)}
        if kinds != {"full"} or config.part("block")["kind"] != "pre_norm":
            raise ValueError("early exits need full attention in plain blocks, to make keys and values alone")
        self.threshold, self.width, self.words = threshold, config.hidden_size, config.vocab_size
        #: Layers done at each exit before the last.
        self.after = list(range(every, layers, every))
        self.tally = Tally()
        self.train(self.training)

    def train(self, mode: bool = True) -> Exits:
        """Say how often a token runs each part at least; while training, always."""
        super().train(mode)
        for block in self._later():
            for part in (block.mixer.query, block.mixer.output, block.feed_forward):
                part.runs_per_token = float(mode or self.threshold >= 1)
        return self

    def forward(self, hidden: Tensor, run: Run) -> Tensor:
        return self._all(hidden, run) if run.training else self._leaving(hidden, run)

    def _all(self, hidden: Tensor, run: Run) -> Tensor:
        for slot, block in enumerate(self.blocks):
            hidden = block(hidden, run, slot)
            if slot + 1 in self.after:
                run.exits.append(hidden)
        return hidden

    def _leaving(self, hidden: Tensor, run: Run) -> Tensor:
        stays = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        chosen: Chosen | None = None
        for slot, block in enumerate(self.blocks):
            found = hidden
            hidden = block(hidden, run, slot) if chosen is None else _partly(block, hidden, chosen, run, slot)
            self.tally.add(stays.numel(), stays.sum())
            if slot + 1 in self.after and self.threshold < 1:
                stays = stays & (_similarity(hidden, found) <= self.threshold)
                longest, least = torch.stack([stays.sum(1).max(), stays.sum(1).min()]).tolist()
                chosen = None if least == stays.shape[1] else choose(stays, longest)
        return hidden

    def mixers(self) -> list[tuple[Mixer, float]]:
        if self.training:
            return [*super().mixers(), (cast("Mixer", _Predicted(self.width * self.words)), float(len(self.after)))]
        if self.threshold >= 1:
            return super().mixers()
        kept = {id(block.mixer) for block in self._later()}
        return [
            (cast("Mixer", _KeptOnly(mixer)) if id(mixer) in kept else mixer, times)
            for mixer, times in super().mixers()
        ]

    def _later(self) -> list[Any]:
        """The layers after the first exit."""
        return list(self.blocks)[self.after[0] :]


def _partly(block: Any, hidden: Tensor, chosen: Chosen, run: Run, slot: int) -> Tensor:
    """One layer, with keys and values of all tokens and all else of the chosen ones."""
    mixer, before = block.mixer, block.mixer_norm(hidden)
    key = mixer.position.rotate(_heads(mixer.key(before), mixer.width), run.positions)
    value = _heads(mixer.value(before), mixer.width)
    state = run.state(slot)
    if state is not None:
        key, value = state.update(key, value)
    if chosen.longest == 0:
        return hidden
    inner, positions = chosen.of(before), chosen.of(run.positions.expand(len(hidden), -1))
    query = mixer.position.rotate(_heads(mixer.query(inner), mixer.width), positions)
    keys = torch.arange(key.shape[2], device=hidden.device)
    allowed = (keys <= positions[..., None])[:, None]
    bias = mixer.position.bias(positions, keys[None])
    few = chosen.of(hidden) + mixer.joined(attend(query, key, value, bias=bias, allowed=allowed, backend=mixer.backend))
    few = few + block.feed_forward(block.feed_forward_norm(few), run, inner)
    return chosen.put(hidden, few)


def _similarity(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of hidden states, in float32 at least: half precision cannot tell 0.98 from 0.984."""
    dtype = torch.promote_types(left.dtype, torch.float32)
    return functional.cosine_similarity(left.to(dtype), right.to(dtype), dim=-1)


def _heads(values: Tensor, width: int) -> Tensor:
    return values.unflatten(-1, (-1, width)).transpose(1, 2)


class _KeptOnly:
    """The closed forms of a mixer that makes keys and values and whose queries may all be gone."""

    def __init__(self, mixer: Mixer) -> None:
        self.held_bytes = mixer.held_bytes

    def mixing(self, first: float, last: float) -> float:
        return 0.0

    def read_bytes(self, tokens: int, element_bytes: int) -> float:
        return 0.0


class _Predicted:
    """The closed forms of one more run of the output layer."""

    def __init__(self, weights: int) -> None:
        self.weights = weights

    def mixing(self, first: float, last: float) -> float:
        return float(self.weights)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return 0.0

    read_bytes = held_bytes


PART: Any = Exits
