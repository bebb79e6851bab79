"""Shared layers that fewer tokens run with each recursion, as a router says."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Position, Run
from harness.decoder.ragged import Chosen, Tally, choose, ragged_run
from harness.decoder.stacks.recursive import Recursive

#: Weight of the loss that keeps the depths of token choice in balance (the paper's).
_BALANCE = 0.1
#: Weight of the loss that teaches expert choice to decide without seeing later tokens (the paper's).
_DECIDE = 0.001


class RoutedRecursive(Recursive):
    """Mixture-of-Recursions (arXiv 2507.10524, section 2.2) with a cache for each recursion.

    `expert` choice: of R recursions the r-th takes (R - r + 1) / R of the tokens, the highest scores among those that
    the one before took, and adds `alpha` x sigmoid(score) x its output to its input. Which scores are high is known
    only with the whole sequence, so a binary cross-entropy teaches the router to score the taken ones above 0, and in
    evaluation a token is taken when its score is. So that the work is the capacity's whatever the router learned, the
    number taken of a sequence's first n stays within `slack` of the capacity's share of n at each n; this bound is
    ours, and a large slack leaves the router alone.

    `token` choice: a softmax router before the first recursion tells each token how many it runs, and a balancing loss
    (Switch Transformer, arXiv 2101.03961, equation 4) asks for equal numbers; nothing bounds them.

    Tokens that left are not computed. Sequences of a batch run side by side, as long as the longest choice; how long
    that is, the device is asked once a recursion in evaluation and in token choice. The closed forms assume the
    capacity's shares, and for token choice that as many tokens leave after each recursion.
    """

    def __init__(
        self,
        config: DecoderConfig,
        positions: nn.ModuleList,
        recursions: int = 2,
        routing: str = "expert",
        alpha: float = 0.1,
        slack: int = 2,
    ) -> None:
        super().__init__(config, positions, recursions)
        if routing not in ("expert", "token"):
            raise ValueError(f"routing {routing!r} is neither expert nor token")
        plain = all(type(position).bias is Position.bias for position in cast("list[Position]", list(positions)))
        if not plain or any(config.part("mixer", 1 + layer)["kind"] != "full" for layer in range(len(self.shared))):
            raise ValueError("routed recursions need full attention and positions that add nothing to its scores")
        self.routing, self.alpha, self.slack, self.tally = routing, alpha, slack, Tally()
        self.capacities = [(recursions - step) / recursions for step in range(recursions)]
        outputs = [1] * recursions if routing == "expert" else [recursions]
        self.routers = nn.ModuleList(nn.Linear(config.hidden_size, each, bias=False) for each in outputs)
        for step, router in enumerate(self.routers):
            cast("Any", router).runs_per_token = self.capacities[max(0, step - 1)]
        for block in self.shared:
            cast("Any", block).runs_per_token = sum(self.capacities)

    def forward(self, hidden: Tensor, run: Run) -> Tensor:
        hidden = self.first(hidden, run, 0)
        self.tally.add((self.last_slot + 1) * hidden[..., 0].numel(), (2 + len(self.shared)) * hidden[..., 0].numel())
        hidden = self._by_experts(hidden, run) if self.routing == "expert" else self._by_tokens(hidden, run)
        return self.last(hidden, run, self.last_slot)

    def _by_experts(self, hidden: Tensor, run: Run) -> Tensor:
        real = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        seen = torch.full_like(real[:, 0], run.first, dtype=torch.long)
        left: list[tuple[Tensor, Chosen]] = []
        tokens = hidden.shape[1]
        for step, router in enumerate(self.routers):
            scores = router(hidden)[..., 0]
            if step:
                # While training the longest choice is known: the capacity's, in every sequence.
                most = math.ceil(self.capacities[step] * tokens) if run.training else None
                taken = self._best(scores, run, most) if most else self._decided(scores, real, step, run, seen)
                entered = self._enter(taken, run, step, most)
                if entered is None:
                    break
                chosen, run, before = entered
                left.append((hidden, chosen))
                hidden, scores, real, seen = chosen.of(hidden), chosen.of(scores), chosen.real, before
            gate = self.alpha * scores.sigmoid()[..., None]
            hidden = gate * self.once(hidden, run, step) + hidden
        for whole, chosen in reversed(left):
            hidden = chosen.put(whole, hidden)
        return hidden

    def _best(self, scores: Tensor, run: Run, most: int) -> Tensor:
        """The tokens with the highest scores of each sequence, and what the router loses by not knowing them."""
        taken = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(most, 1).indices, True)
        # Binary cross-entropy of the scores, from operators whose FLOPs are known to be none.
        decided = functional.softplus(scores.float()) - scores.float() * taken
        run.losses.append(_DECIDE * decided.mean())
        return taken

    def _decided(self, scores: Tensor, real: Tensor, step: int, run: Run, seen: Tensor) -> Tensor:
        """Which of the tokens that the recursion before took this one takes too, each decided without later ones."""
        share = self.capacities[step] / self.capacities[step - 1]
        number = seen[:, None] + torch.arange(1, scores.shape[1] + 1, device=scores.device)
        low = (share * number.double() - self.slack).ceil().long().clamp_min(0)
        high = (share * number.double() + self.slack).floor().long()
        before = self._before(run, step, len(scores))
        counts = bounded_counts((scores > 0) & real, low, torch.minimum(high, number), before)
        return (torch.diff(counts, dim=1, prepend=before[:, None]) > 0) & real

    def _by_tokens(self, hidden: Tensor, run: Run) -> Tensor:
        chances = self.routers[0](hidden).float().softmax(-1)
        gates, depths = chances.max(-1)
        if run.training:
            share = functional.one_hot(depths, self.recursions).float().mean((0, 1))
            run.losses.append(_BALANCE * self.recursions * (share * chances.mean((0, 1))).sum())
        gates, start = gates.to(hidden.dtype)[..., None], hidden
        left: list[tuple[Tensor, Chosen]] = []
        for step in range(self.recursions):
            if step:
                real = left[-1][1].real if left else torch.ones_like(depths, dtype=torch.bool)
                entered = self._enter((depths >= step) & real, run, step, None)
                if entered is None:
                    break
                chosen, run, _ = entered
                left.append((hidden, chosen))
                hidden, depths = chosen.of(hidden), chosen.of(depths)
                gates, start = chosen.of(gates), chosen.of(start)
            after = self.once(hidden, run, step)
            hidden = torch.where((depths == step)[..., None], gates * after + start, after)
        for whole, chosen in reversed(left):
            hidden = chosen.put(whole, hidden)
        return hidden

    def _enter(self, taken: Tensor, run: Run, step: int, longest: int | None) -> tuple[Chosen, Run, Tensor] | None:
        """The taken tokens, their pass, and how many of each sequence this recursion took before; None for none."""
        before, counts, most, total = self._before(run, step, len(taken)), taken.sum(1), 0, longest
        if longest is None:
            sizes = torch.stack([counts.max(), before.max(), (before + counts).max()])
            longest, most, total = sizes.tolist()
        assert longest is not None
        assert total is not None
        if longest == 0:
            return None
        self.tally.add(0, len(self.shared) * counts.sum())
        chosen = choose(taken, longest)
        state = run.state(self.slot(step))
        if state is not None:
            state.extras["taken"] = before + counts
        positions = chosen.of(run.positions.expand(len(taken), -1))
        return chosen, ragged_run(run, chosen, positions, before, most, total), before

    def _before(self, run: Run, step: int, batch: int) -> Tensor:
        """How many tokens of each sequence this recursion took in earlier passes."""
        state = run.state(self.slot(step))
        if state is not None and "taken" in state.extras:
            return state.extras["taken"]
        return torch.zeros(batch, dtype=torch.long, device=run.positions.device)

    def mixers(self) -> list[tuple[Mixer, float]]:
        own = [(mixer, 1.0) for block in (self.first, self.last) for mixer in block.mixers()]
        visited = [Visited(mixer, share) for share in self.capacities for mixer in self.shared_mixers()]
        return own + [(cast("Mixer", each), 1.0) for each in visited]


class Visited:
    """The closed forms of a mixer that a share of the tokens visits, each of which meets this share of those before."""

    def __init__(self, mixer: Mixer, share: float) -> None:
        self.mixer, self.share = mixer, share

    def mixing(self, first: float, last: float) -> float:
        """Multiply-adds of a token, visited or not."""
        return self.share * self.mixer.mixing(self.share * first, self.share * last)

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        """Bytes kept."""
        return self.mixer.held_bytes(math.ceil(self.share * tokens), element_bytes)

    def read_bytes(self, tokens: int, element_bytes: int) -> float:
        """Bytes that the next token reads, on average over those that visit and those that do not."""
        return self.share * self.mixer.read_bytes(math.ceil(self.share * tokens), element_bytes)


def bounded_counts(wanted: Tensor, low: Tensor, high: Tensor, start: Tensor) -> Tensor:
    """counts[t] = counts[t - 1] + wanted[t], cut to low[t] and high[t], for all t of (batch, tokens) at once.

    "Add, then cut" after another is again "add, then cut", so that stretches are joined to ones of twice the length.
    """
    add, reach = wanted.long(), 1
    while reach < add.shape[1]:
        later, bottom, top = add[:, reach:], low[:, reach:], high[:, reach:]
        joined = [torch.clamp(bound[:, :-reach] + later, bottom, top) for bound in (low, high)]
        low, high = (torch.cat([bound[:, :reach], new], 1) for bound, new in zip((low, high), joined, strict=True))
        add = torch.cat([add[:, :reach], add[:, :-reach] + later], 1)
        reach *= 2
    return torch.clamp(start[:, None] + add, low, high)


PART: Any = RoutedRecursive
