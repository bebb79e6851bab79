"""From a stream of allocations to its peak, and to the part that every block alive at the peak was of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.checks import MEMORY_PARTS as PARTS


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


@dataclass
class _Block:
    size_bytes: int
    part: str


def parts_at_peak(before: Mapping[int, tuple[int, str]], stream: Iterable[Event]) -> dict[str, int]:
    """Bytes of each part at the first moment at which their sum is highest.

    `before` holds the size in bytes and the part of what lived at each address before the stream, which is in the
    order of time. A block that is taken where another lives means that the other's end went unseen: it is gone.
    """
    here = {address: _Block(size, part) for address, (size, part) in before.items()}
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
            here[event.address], taken[event.address] = _Block(event.size_bytes, event.part), event
            changes.append((here[event.address], 1))
    return _highest(changes)


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
