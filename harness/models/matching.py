"""One size of a changed architecture, set so that the model costs what the untouched one does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Model, Technique
from harness.run.costs import NO_FORM, costs_of

#: How near the quantity must come to the untouched model's.
TOLERANCE = 0.01
#: Widths are multiples of this where that comes near enough, because kernels like them.
MULTIPLE = 8
#: A size is searched up to so many times its own.
FURTHEST = 64
#: What a user calls a quantity, and the field of `harness.run.costs.Costs` that holds it.
QUANTITIES = {
    "parameters": "parameters",
    "active_parameters": "active_parameters",
    "flops": "forward_flops",
    "kv_bytes": "cache_bytes",
}
DEPTH = "num_hidden_layers"


@dataclass(frozen=True)
class Found:
    """The nearest that was found: a size before and after, and the quantity wanted and reached."""

    target: float
    reached: float
    #: Empty where the architecture was near enough as it was.
    field: str = ""
    before: int = 0
    after: int = 0

    @property
    def share(self) -> float:
        """Of the untouched model's quantity."""
        return self.reached / self.target

    @property
    def near(self) -> bool:
        """Whether it is a match."""
        return abs(self.share - 1) <= TOLERANCE


#: Of each search that this process has done; None where the quantity has no closed form.
_known: dict[str, Found | None] = {}


@dataclass(frozen=True)
class Matching(Technique):
    """Comes after every technique's `configure`, so that variants are compared at equal cost.

    Sizes are tried in turn until one brings `quantity` within 1% of the untouched model's: those that the techniques
    name, `intermediate_size` (not for `kv_bytes`, on which it has no bearing), and the number of layers. FLOPs are
    those of a forward pass over `tokens` tokens; the search runs on the meta device.
    """

    model: Model
    techniques: tuple[Technique, ...]
    quantity: str
    tokens: int

    family: ClassVar = "matching"

    def skip_reason(self, context: Context) -> str | None:
        """The nearest, where nothing comes near enough; what cannot be built at all is said by the model's check."""
        try:
            found = self.found()
        except (ValueError, TypeError, OSError):
            return None
        if found is None:
            return f"match={self.quantity}: {NO_FORM}, or the untouched model's has none"
        if found.near:
            return None
        size = f"{found.field} {found.before} -> {found.after}" if found.field else "the architecture as it is"
        return (
            f"match={self.quantity}: no size comes within {TOLERANCE:.0%} of the untouched model's "
            f"{found.target:,.0f}; the nearest is {size} with {found.reached:,.0f} ({found.share:.1%})"
        )

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """The architecture with the size that was found."""
        found = self.found()
        return architecture if found is None or not found.field else resized(architecture, found.field, found.after)

    def evidence(self, model: Any) -> str | None:
        """The size that was changed, and how near that came."""
        found = self.found()
        if found is None:
            return None
        size = f"{found.field} {found.before} -> {found.after}" if found.field else "no size: it matched as it was"
        return f"{size}; {self.quantity} {found.reached:,.0f}, untouched {found.target:,.0f}"

    def found(self) -> Found | None:
        """The match, or the nearest to one; None where the quantity is unknown. Searched for once in a process."""
        changed = self.model.architecture_facts(self.techniques)
        untouched = self.model.architecture_facts(())
        facts = [untouched, changed, list(self._fields()), self.quantity, self.tokens, str(self.model)]
        key = json.dumps(facts, sort_keys=True, default=str)
        if key not in _known:
            _known[key] = self._search(changed)
        return _known[key]

    def _search(self, changed: Mapping[str, Any]) -> Found | None:
        target, reached = self._quantity(()), self._quantity(self.techniques)
        if not target or reached is None:
            return None
        best = Found(target, reached)
        for field, step in self._sizes():
            if best.near:
                break
            before = size_of(changed, field)
            if before is None:
                continue

            def quantity(size: int, field: str = field) -> float | None:
                return self._quantity((*self.techniques, _Resized(field, size)))

            after, reached = nearest(quantity, before, target, step)
            if abs(reached - target) < abs(best.reached - target):
                best = Found(target, reached, field, before, after)
        return best

    def _sizes(self) -> Iterator[tuple[str, int]]:
        """Each size to try, and the step in which it may move."""
        for field in self._fields():
            yield field, MULTIPLE
            yield field, 1
        yield DEPTH, 1

    def _fields(self) -> Iterator[str]:
        kept = self.quantity == "kv_bytes"
        for technique in self.techniques:
            named = technique.cache_field if kept else technique.width_field
            yield from (named,) if isinstance(named, str) else named
        if not kept:
            yield "intermediate_size"

    def _quantity(self, techniques: Iterable[Technique]) -> float | None:
        costs = costs_of(self.model.empty(techniques), self.tokens)
        return getattr(costs, QUANTITIES[self.quantity])


@dataclass(frozen=True)
class _Resized(Technique):
    field: str
    size: int

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        return resized(architecture, self.field, self.size)


def size_of(architecture: Mapping[str, Any], field: str) -> int | None:
    """The whole number at `field`, which a dot leads into; of a list of parts the first's. None where there is none."""
    for owner, key in _places(architecture, field):
        size = owner[key]
        return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
    return None


def resized(architecture: Mapping[str, Any], field: str, size: int) -> dict[str, Any]:
    """The architecture with another number at `field`; in a list of parts, of all that have it."""
    changed = copy.deepcopy(dict(architecture))
    for owner, key in _places(changed, field):
        owner[key] = size
    return changed


def _places(facts: Any, field: str) -> Iterator[tuple[Any, str]]:
    head, _, rest = field.partition(".")
    for owner in facts if isinstance(facts, list) else [facts]:
        if isinstance(owner, Mapping) and head in owner:
            yield from _places(owner[head], rest) if rest else [(owner, head)]


def nearest(quantity: Callable[[int], float | None], start: int, target: float, step: int) -> tuple[int, float]:
    """The multiple of `step` whose quantity, which never falls as the size grows, is nearest to `target`.

    The search brackets the target by doubling and halving, then interpolates between the ends and, every third time,
    halves. A size that cannot be built, or has no quantity, ends it with the nearest so far.
    """
    seen: dict[int, float] = {}

    def at(units: int) -> float:
        if units not in seen:
            found = quantity(units * step)
            if found is None:
                raise ValueError("this size has no such quantity")
            seen[units] = found
        return seen[units]

    with suppress(ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError):
        _search(at, max(1, round(start / step)), target)
    if not seen:
        return start, float("inf")
    units = min(seen, key=lambda units: abs(seen[units] - target))
    return units * step, seen[units]


def _search(at: Callable[[int], float], start: int, target: float) -> None:
    low = high = start
    while at(high) < target and high < FURTHEST * start:
        low, high = high, 2 * high
        if at(high) <= at(low):
            return  # this size has no bearing on the quantity
    while at(low) > target and low > 1:
        low, high = low // 2, low
        if at(high) <= at(low):
            return
    turn = 0
    while high - low > 1 and at(low) < target < at(high):
        turn += 1
        share = 0.5 if turn % 3 == 0 else (target - at(low)) / (at(high) - at(low))
        middle = min(max(low + round(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if at(middle) <= target else (low, middle)
