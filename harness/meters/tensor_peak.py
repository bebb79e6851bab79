"""Peak of bytes held by tensors during one step on a CPU, whose allocator keeps no count."""

from __future__ import annotations

from typing import Any

from harness.interfaces import Session


def profiled_peak(session: Session) -> int | None:
    """Bytes that tensors held before a step plus the most that the step held on top, by the allocation events.

    The profiler slows a step several times over, which is why this step is never one of those that are timed.
    """
    from torch.profiler import ProfilerActivity, profile

    from harness.tensors import live_bytes

    session.before_step()
    before = live_bytes("cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        session.step()
    results = profiler.profiler
    if results is None or results.kineto_results is None:
        return None
    events: list[Any] = results.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    level = highest = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        level += change
        highest = max(highest, level)
    return before + highest
