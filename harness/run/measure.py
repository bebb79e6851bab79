"""The timed loop: warm up until settled, then step until the protocol has enough."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.interfaces import Meter, Session, Window
from harness.protocol import Protocol
from harness.run.flush import Flush
from harness.run.sampling import sampling


@dataclass
class Timings:
    """Step times of one run, warm-up kept apart."""

    host: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Measurement:
    """A window and how it came about."""

    window: Window
    warmup_seconds: list[float]
    converged: bool
    stop_reason: str
    settled: bool
    #: Meter to the mean seconds between its samples, which a busy machine makes longer than its period.
    sampled_every_seconds: dict[str, float] = field(default_factory=dict)


def measure(
    session: Session, protocol: Protocol, device: str, meters: Sequence[Meter], fixed_steps: int | None
) -> Measurement:
    """Run the session's steps under the meters.

    With `fixed_steps` the whole run has that many steps, warm-up included, and its length is the workload's choice.
    """
    flush = Flush(device) if protocol.cache == "cold" else None
    for meter in meters:
        meter.phase("warmup")
    clock = make_clock(device, protocol.launches == "queued")
    one_step = timed_step(session, clock, flush, meters if protocol.sm_clock else ())
    warmup, settled = _warm_up(one_step, protocol, fixed_steps)
    session.forget()
    for meter in meters:
        meter.phase("step")
    timings = Timings()
    sampler = sampling(meters)
    with sampler:
        for meter in meters:
            meter.start()
        start = time.perf_counter_ns()
        reason = _run(one_step, protocol, timings, None if fixed_steps is None else fixed_steps - len(warmup.host))
        end = time.perf_counter_ns()
        for meter in meters:
            meter.stop()
    window = Window(
        session.work(),
        timings.host,
        timings.device,
        start,
        end,
        dict(session.held_bytes()),
        dict(session.samples()),
        session.aside_seconds(),
        flush.bytes if flush else 0,
    )
    converged = reason in ("enough", "workload's budget done")
    return Measurement(window, warmup.host, converged, reason, settled, sampler.mean_seconds())


#: How long the GPU is held before a step whose launches are to be queued: more than launching a few kernels takes.
HELD_CYCLES = 1_000_000


def make_clock(device: str, queued: bool = False) -> Callable[[Callable[[], None], Timings], None]:
    """A function that times one call by the host's clock and, on a GPU, by device events as well.

    With `queued` the GPU is held while the host launches the step, so that its events hold no wait for a launch; the
    host's clock would time the hold, so both lists then get the device's time. ValueError for `queued` without a GPU.
    """
    if device != "cuda":
        if queued:
            raise ValueError("protocol.launches=queued needs a GPU: a processor has no queue; use as_they_come")

        def host_clock(step: Callable[[], None], into: Timings) -> None:
            before = time.perf_counter()
            step()
            into.host.append(time.perf_counter() - before)

        return host_clock

    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def device_clock(step: Callable[[], None], into: Timings) -> None:
        torch.cuda.synchronize()
        if queued:
            torch.cuda._sleep(HELD_CYCLES)
        before = time.perf_counter()
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        host_seconds, device_seconds = time.perf_counter() - before, begin.elapsed_time(end) / 1e3
        into.host.append(device_seconds if queued else host_seconds)
        into.device.append(device_seconds)

    return device_clock


def timed_step(
    session: Session,
    clock: Callable[[Callable[[], None], Timings], None],
    flush: Callable[[], None] | None,
    meters: Sequence[Meter],
) -> Callable[[Timings], None]:
    """A function that does one step with all that belongs beside it; only the step itself is timed."""

    def one_step(into: Timings) -> None:
        session.before_step()
        if flush is not None:
            flush()
        for meter in meters:
            meter.before_step()
        clock(session.step, into)
        for meter in meters:
            meter.after_step()

    return one_step


def _warm_up(one_step: Callable[[Timings], None], protocol: Protocol, fixed_steps: int | None) -> tuple[Timings, bool]:
    timings = Timings()
    limit = time.perf_counter() + protocol.maximum_warmup_seconds
    most = None if fixed_steps is None else max(1, fixed_steps // 4)
    while True:
        one_step(timings)
        if has_settled(timings.host, protocol):
            return timings, True
        if len(timings.host) >= protocol.minimum_warmup_steps and time.perf_counter() > limit:
            return timings, False
        if most is not None and len(timings.host) >= most:
            return timings, False


def has_settled(seconds: Sequence[float], protocol: Protocol) -> bool:
    """Whether the newest `settle_window` steps have about the same median as those before them."""
    width = protocol.settle_window
    if len(seconds) < max(protocol.minimum_warmup_steps, 2 * width):
        return False
    newest, before = statistics.median(seconds[-width:]), statistics.median(seconds[-2 * width : -width])
    return abs(newest - before) <= protocol.settle_ratio * before


def _run(one_step: Callable[[Timings], None], protocol: Protocol, timings: Timings, steps: int | None) -> str:
    start = time.perf_counter()
    while True:
        one_step(timings)
        if steps is not None:
            if len(timings.host) >= steps:
                return "workload's budget done"
            continue
        elapsed = time.perf_counter() - start
        if elapsed >= protocol.minimum_seconds and is_enough(timings.host, protocol):
            return "enough"
        if elapsed >= protocol.maximum_seconds:
            return unmet(timings.host, protocol)


def is_enough(seconds: Sequence[float], protocol: Protocol) -> bool:
    """Whether the samples' mean is known well enough."""
    return len(seconds) >= protocol.minimum_samples and _relative_error(seconds) <= protocol.target_spread_ratio


def unmet(seconds: Sequence[float], protocol: Protocol) -> str:
    """Which condition the window missed at its time limit."""
    if len(seconds) < protocol.minimum_samples:
        return f"time limit with {len(seconds)} of {protocol.minimum_samples} samples"
    return f"time limit with a relative standard error of {_relative_error(seconds):.3f}"


def _relative_error(seconds: Sequence[float]) -> float:
    return statistics.stdev(seconds) / len(seconds) ** 0.5 / statistics.fmean(seconds)
