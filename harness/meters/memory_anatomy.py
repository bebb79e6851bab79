"""What holds the bytes at the peak of a step: a step of its own under the profiler's allocation events.

Every allocation of torch's allocators, on a CPU and on a GPU, is an event in the profiler's stream, nested in the
operation that asked for it. Marks in the same stream say to whom a block belongs. Nothing here intercepts operations,
so compiled code and packed tensors run as they do otherwise; but the step is several times slower, which is why it is
never one of those that are timed.

On a GPU the stream is not complete: autograd's thread frees between two operations, where it is not profiled. The
allocator's own history is; so that says when a block lived, and the stream only what it was.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any

from harness.interfaces import Session
from harness.meters.block_lives import Change, Claimed, Event, Given, Taken, parts_at_peak
from harness.meters.memory_owners import find_owners, live_storages, owned_storages
from harness.run.tensors import reachable, storages

_MARK, _GONE, _FORWARD = "memory part", "gone", "memory: forward pass"
#: A longer history is not used: every entry becomes a dictionary in the host's memory when it is read.
_HISTORY_ENTRIES = 2_000_000


@dataclass(frozen=True)
class Anatomy:
    """The peak of one step in bytes, by the allocator on a GPU, and the bytes of each part at it."""

    peak_bytes: int
    parts: Mapping[str, int]


def anatomy_of(session: Session, device: str) -> Anatomy | None:
    """Run the step once and take its peak apart; None where no tensor lived on the device."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    session.before_step()
    owners = find_owners()
    parameters, found = owners.parameters(), live_storages(owners, device)
    before = {address: (storage.nbytes(), part) for address, (storage, part) in found.items()}
    on_gpu = device == "cuda"
    watched = [] if on_gpu else [weakref.ref(storage, _when_gone(key)) for key, (storage, _) in found.items()]
    del owners, found  # a reference would keep alive what the step lets go
    native = on_gpu and torch.cuda.get_allocator_backend() == "native"  # the others show neither blocks nor history
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    if native:
        before = _blocks(before)
    with (
        _history() if native else nullcontext([]) as history,
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        with _marks(parameters, device):
            session.step()
        allocator_peak = torch.cuda.max_memory_allocated() if on_gpu else None
        for address, (_, part) in owned_storages(find_owners(), device).items():
            _mark(part, address)
        if on_gpu:
            _give_library_workspaces_back()
    watched.clear()
    results: Any = profiler.profiler
    stream = _stream(results.kineto_results.experimental_event_tree(), device)
    return _anatomy(parts_at_peak(before, stream, history), allocator_peak)


def _anatomy(parts: dict[str, int], allocator_peak: int | None) -> Anatomy | None:
    """The allocator's own count is independent of the events: what they miss of it has no part."""
    total = sum(parts.values())
    if not total:
        return None
    if allocator_peak is not None:
        parts["unattributed"] += allocator_peak - total
    return Anatomy(allocator_peak or total, parts)


def _blocks(known: Mapping[int, tuple[int, str]]) -> dict[int, tuple[int, str]]:
    """Every block that the GPU's allocator has given out, as large as it counts it."""
    import torch

    return {
        block["address"]: (block["size"], known[block["address"]][1] if block["address"] in known else "unattributed")
        for segment in torch.cuda.memory_snapshot()
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    }


@contextmanager
def _history() -> Iterator[list[Change]]:
    """What the GPU's allocator gives out and takes back while the block runs: filled at its end, and empty where it was
    too much to keep."""
    import torch

    changes: list[Change] = []
    memory: Any = torch.cuda.memory
    memory._record_memory_history("all", context=None, stacks="python", max_entries=_HISTORY_ENTRIES)
    try:
        yield changes
        changes += _changes(memory._snapshot()["device_traces"][torch.cuda.current_device()])
    finally:
        memory._record_memory_history(None)  # it also forgets: read it before


def _changes(entries: list[dict[str, Any]]) -> list[Change]:
    """A block counts as allocated until its end is requested, however long another stream still uses it."""
    if len(entries) >= _HISTORY_ENTRIES:
        return []  # a ring: the oldest are overwritten
    return [
        (entry["addr"], entry["size"] if entry["action"] == "alloc" else None)
        for entry in entries
        if entry["action"] in ("alloc", "free_requested")
    ]


def _give_library_workspaces_back() -> None:
    """cuBLAS keeps its workspaces in blocks that no tensor shows; let them go, and they are known by that."""
    import torch
    from torch.profiler import record_function

    with record_function(f"{_MARK}:workspaces"):
        torch._C._cuda_clearCublasWorkspaces()


def _mark(part: str, address: int) -> None:
    from torch.profiler import record_function

    with record_function(f"{_MARK}:{part}:{address}"):
        """An event of no length in the profiler's stream."""


def _when_gone(address: int) -> Callable[[Any], None]:
    """On a CPU the end of what lived before the profiler started is no event of its own."""
    return lambda _: _mark(_GONE, address)


def _mark_tensors(part: str, tensors: Any, device: str) -> None:
    for _, address in storages(tensors, device):
        _mark(part, address)


@contextmanager
def _marks(parameters: list[Any], device: str) -> Iterator[None]:
    """While the block runs: gradients, growing caches and forward passes leave marks."""
    with ExitStack() as stack:
        for parameter in parameters:
            if parameter.requires_grad and parameter.is_leaf:
                hook = parameter.register_post_accumulate_grad_hook(
                    lambda owner: _mark_tensors("gradient", [owner.grad], device)
                )
                stack.callback(hook.remove)
        _watch_forward(stack)
        stack.enter_context(_growing_caches(device))
        yield


def _watch_forward(stack: ExitStack) -> None:
    """Every module's outermost call: a wrapper's `generate` may call a module that is inside it."""
    import torch
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
    from torch.profiler import record_function

    running: list[Any] = []

    def begin(*_: Any) -> None:
        if not torch.compiler.is_compiling():
            running.append(nullcontext() if running else record_function(_FORWARD))
            running[-1].__enter__()

    def end(*_: Any) -> None:
        if not torch.compiler.is_compiling() and running:
            running.pop().__exit__(None, None, None)

    stack.callback(register_module_forward_pre_hook(begin).remove)
    stack.callback(register_module_forward_hook(end, always_call=True).remove)


@contextmanager
def _growing_caches(device: str) -> Iterator[None]:
    """Mark what a layer of transformers' growing caches holds each time it has grown; fixed ones are found later."""
    root = getattr(sys.modules.get("transformers.cache_utils"), "DynamicLayer", None)
    plain = {kind: vars(kind)["update"] for kind in _family(root) if "update" in vars(kind)}
    for kind, update in plain.items():
        kind.update = _marking(update, device)
    try:
        yield
    finally:
        for kind, update in plain.items():
            kind.update = update


def _marking(update: Callable[..., Any], device: str) -> Callable[..., Any]:
    @wraps(update)
    def marked(self: Any, *arguments: Any, **named: Any) -> Any:
        result = update(self, *arguments, **named)
        _mark_tensors("kv_cache", reachable(self), device)
        return result

    return marked


def _family(root: type | None) -> list[type]:
    return [] if root is None else [root, *(kind for child in root.__subclasses__() for kind in _family(child))]


@dataclass(frozen=True)
class _Place:
    """Where in the tree an event is: what its blocks are if nobody claims them, and the outermost operation's end."""

    part: str = "workspace"
    operation_end_ns: int = 0
    clearing: bool = False


def _stream(roots: list[Any], device: str) -> list[Event]:
    """The allocations and marks of the profiler's tree in the order of time."""
    found: list[Event] = []
    left = [(root, _Place()) for root in roots]
    while left:
        node, place = left.pop()
        size = getattr(node.extra_fields, "alloc_size", None)
        if size is None:
            inner = _inside(node, place)
            found += _marked(node)
            left += [(child, inner) for child in node.children]
        elif node.extra_fields.device.type == device:
            found += _changed(node, size, place)
    return sorted(found, key=lambda event: event.time_ns)


def _changed(node: Any, size: int, place: _Place) -> list[Event]:
    time, address = node.start_time_ns, node.extra_fields.ptr
    if size > 0:
        return [Taken(time, address, size, place.part, place.operation_end_ns)]
    claimed: list[Event] = [Claimed(time, address, "workspace")] if place.clearing else []
    return [*claimed, Given(time, address)]


def _marked(node: Any) -> list[Event]:
    words = node.name.split(":")
    if words[0] != _MARK or len(words) != 3:
        return []
    address = int(words[2])
    return [Given(node.start_time_ns, address) if words[1] == _GONE else Claimed(node.start_time_ns, address, words[1])]


def _inside(node: Any, place: _Place) -> _Place:
    """A forward or backward pass, or an operation that autograd records, makes activations; the rest is temporary."""
    name = node.name
    if name == f"{_MARK}:workspaces":
        return _Place(clearing=True)
    if name.startswith("Optimizer.step"):
        return _Place("workspace", node.end_time_ns)
    recorded = getattr(node.extra_fields, "sequence_number", -1) >= 0
    engine = name.startswith("autograd::engine")
    part = "activation" if recorded or engine or name == _FORWARD else place.part
    scope = getattr(node.extra_fields, "scope", None)
    is_operation = str(scope).endswith(".FUNCTION") and not engine
    end = node.end_time_ns if is_operation and not place.operation_end_ns else place.operation_end_ns
    return _Place(part, end)
