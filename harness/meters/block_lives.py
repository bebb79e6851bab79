"""From a stream of allocations to its peak, and to the part that every block alive at the peak was of."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.rows.checks import MEMORY_PARTS as PARTS


@dataclass(frozen=True)
class Taken:
    """A block was taken. `part` is what it is when nobody claims it and it outlives the operation that took it."""

    time_ns: int
    address: int
    size_bytes: int
    part: str
    operation_end_ns: int = 0


@dataclass(frozen=True)
class Given:
    """The block at `address`, if there is one, is free again."""

    time_ns: int
    address: int


@dataclass(frozen=True)
class Claimed:
    """The block that is at `address` belongs to `part`, and has since it was taken."""

    time_ns: int
    address: int
    part: str


Event = Taken | Given | Claimed


#: A change in an allocator's own history: an address, and the bytes asked for there, or None: the block is given back.
Change = tuple[int, int | None]

#: torch's GPU allocator rounds sizes up to the first (kMinBlockSize); above the second (kSmallSize) a block also keeps
#: what is left of the cached one that it is cut from, where that is no more than the second.
_ROUND_BYTES, _KEPT_REST_BYTES = 512, 2**20


@dataclass
class _Block:
    address: int
    size_bytes: int
    part: str


def parts_at_peak(
    before: Mapping[int, tuple[int, str]], stream: Iterable[Event], history: Sequence[Change] = ()
) -> dict[str, int]:
    """Bytes of each part at the first moment at which their sum is highest.

    `before` holds the size in bytes and the part of what lived at each address before the stream, which is in the
    order of time. A block that is taken where another lives means that the other's end went unseen: it is gone. Where
    there is a `history`, which misses nothing but knows no parts, the blocks live and end as it says.
    """
    changes = _lives(before, stream)
    return _highest(_relived(before, changes, history) if history else changes)


def _lives(before: Mapping[int, tuple[int, str]], stream: Iterable[Event]) -> list[tuple[_Block, int]]:
    """Every block with the part that it finally is of, where it begins (1) and where it ends (-1)."""
    here = {address: _Block(address, size, part) for address, (size, part) in before.items()}
    changes = [(block, 1) for block in here.values()]
    taken: dict[int, Taken] = {}
    for event in stream:
        if isinstance(event, Claimed):
            if event.address in here:
                here[event.address].part = event.part
                taken.pop(event.address, None)
            continue
        gone, origin = here.pop(event.address, None), taken.pop(event.address, None)
        if gone is not None:
            changes.append((gone, -1))
            if origin is not None and event.time_ns <= origin.operation_end_ns:
                gone.part = "workspace"
        if isinstance(event, Taken):
            here[event.address], taken[event.address] = _Block(event.address, event.size_bytes, event.part), event
            changes.append((here[event.address], 1))
    return changes


def _relived(
    before: Mapping[int, tuple[int, str]], changes: Iterable[tuple[_Block, int]], history: Sequence[Change]
) -> list[tuple[_Block, int]]:
    """The changes of `history`, its blocks those that the stream knew: at every address in their order."""
    known: dict[int, deque[_Block]] = defaultdict(deque)
    for block, sign in changes:
        if sign > 0:
            known[block.address].append(block)
    here = {address: known[address].popleft() for address in before}
    relived = [(block, 1) for block in here.values()]
    to_come = Counter(address for address, asked_bytes in history if asked_bytes is not None)
    for address, asked_bytes in history:
        if address in here:
            relived.append((here.pop(address), -1))
        if asked_bytes is not None:
            here[address] = _recognized(known[address], to_come[address], address, asked_bytes)
            relived.append((here[address], 1))
            to_come[address] -= 1
    return relived


def _recognized(known: deque[_Block], to_come: int, address: int, asked_bytes: int) -> _Block:
    """The next known block, if it can be this one of the `to_come` that begin at the address; else one of no part."""
    rounded = -(-asked_bytes // _ROUND_BYTES) * _ROUND_BYTES
    largest = rounded + (_KEPT_REST_BYTES if rounded > _KEPT_REST_BYTES else 0)
    if known and (len(known) >= to_come or rounded <= known[0].size_bytes <= largest):
        return known.popleft()
    return _Block(address, rounded, "unattributed")


def _highest(changes: Iterable[tuple[_Block, int]]) -> dict[str, int]:
    now: dict[str, int] = dict.fromkeys(PARTS, 0)
    highest = dict(now)
    level = peak = 0
    for block, sign in changes:
        now[block.part] += sign * block.size_bytes
        level += sign * block.size_bytes
        if level > peak:
            peak, highest = level, dict(now)
    return highest
