"""What do the harness's own meters cost? A training step of about 5 ms, with the meters and without, window by window.

One process alternates short windows of the same training run in random order: pairs of {all default meters, none}, and
pairs of {placebo, none}, where the placebo is the meters' thread at their shortest period doing nothing. Each pair
gives four ratios: of the fast steps' time (the first tenth's end, which other users of the machine move least), of
median and mean step times, which a few disturbed steps move as well, and of the loop's time for a step, with what the
meters do between steps. Printed are the geometric means with 95% paired t intervals, and whether the upper end of each
stays below 1%.

    python benchmarks/disturbance.py [--pairs 30] [--seconds 1] [--device auto] [--output FILE.json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.interfaces import Meter, Readings, Session, Window, Work
from harness.machine.environment import device_name, resolve_device
from harness.plan.building import make
from harness.plan.config import to_trials
from harness.plan.single import composed
from harness.protocol import Protocol
from harness.run.measure import Timings, make_clock, measure
from harness.stats.intervals import ratio_interval

WIDTH, BATCH = 256, 64
#: The slow-down that the meters must stay below.
LIMIT_RATIO = 0.01
#: What is compared of two windows, in seconds.
MIDDLES: dict[str, Callable[[Window], float]] = {
    "fast step": lambda window: statistics.quantiles(window.step_seconds, n=10)[0],
    "median step": lambda window: statistics.median(window.step_seconds),
    "mean step": lambda window: statistics.fmean(window.step_seconds),
    "loop": lambda window: window.seconds / window.steps,
}


class Training(Session):
    """A small network's training step: forward, backward, Adam; its time grows with its depth."""

    def __init__(self, device: str, layers: int) -> None:
        import torch

        torch.manual_seed(0)
        parts = [part for _ in range(layers) for part in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU())]
        self.model = torch.nn.Sequential(*parts).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(BATCH, WIDTH, device=device)

    def step(self) -> None:
        """One update."""
        self.optimizer.zero_grad(set_to_none=True)
        (self.model(self.batch) - self.batch).square().mean().backward()
        self.optimizer.step()

    def work(self) -> Work:
        """Sequences and tokens do not matter here."""
        return Work(samples=BATCH, trained_tokens=BATCH)


class Placebo(Meter):
    """The sampling thread at `period_seconds`, reading nothing."""

    metrics = ()

    def __init__(self, period_seconds: float) -> None:
        self.period_seconds = period_seconds

    def readings(self, window: Window) -> Readings:
        """None."""
        return Readings()


def calibrated(device: str, step_seconds: float) -> Training:
    """A training run whose steps take about `step_seconds` on this machine when nothing else runs."""
    layers = 8
    for _ in range(3):
        layers = max(1, round(layers * step_seconds / shortest_step(Training(device, layers), device)))
    return Training(device, layers)


def shortest_step(session: Session, device: str) -> float:
    """Seconds of the shortest of 30 steps."""
    clock, timings = make_clock(device), Timings()
    for _ in range(30):
        clock(session.step, timings)
    return min(timings.host)


def default_meters(device: str) -> list[Any]:
    """The meters of a trial as configured, as plain data."""
    trials, _ = to_trials(composed([f"device={device}"]))
    return list(trials[0].meters)


def opened(parts: Sequence[Any], device: str) -> list[Meter]:
    """New meters, as at the start of a trial."""
    meters: list[Meter] = [make("meters", part) for part in parts]
    for meter in meters:
        meter.open(device)
        meter.phase("load")
    return meters


def window(session: Session, device: str, meters: Sequence[Meter], seconds: float) -> Window:
    """One window of `seconds`, warm-up apart; the meters are read after it, as in a trial."""
    protocol = Protocol(
        maximum_warmup_seconds=seconds / 4, minimum_samples=2, minimum_seconds=seconds, maximum_seconds=seconds
    )
    found = measure(session, protocol, device, meters, None).window
    for meter in meters:
        meter.readings(found)
    return found


class Bench:
    """One training run and the sides that its windows can have."""

    def __init__(self, device: str, seconds: float, step_seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self.parts = default_meters(device)
        for part in self.parts:
            os.environ.update(make("meters", part).once())
        periods = [meter.period_seconds for meter in opened(self.parts, device)]
        self.period_seconds = min((period for period in periods if period is not None), default=None)
        self.session = calibrated(device, step_seconds)

    def measured(self, side: str) -> Window:
        """A window with `meters`, with the `placebo`, or with `none`."""
        meters: list[Meter] = []
        if side == "meters":
            meters = opened(self.parts, self.device)
        elif side == "placebo" and self.period_seconds is not None:
            meters = [Placebo(self.period_seconds)]
        return window(self.session, self.device, meters, self.seconds)

    def pair(self, side: str) -> tuple[Window, Window]:
        """Neighbouring windows with `side` and without, in random order."""
        found = {each: self.measured(each) for each in random.sample((side, "none"), 2)}
        return found[side], found["none"]


def slow_down(ratios: Sequence[float]) -> dict[str, Any]:
    """Geometric mean of with/without less 1, its 95% interval, and whether its upper end is below the limit."""
    found = ratio_interval([math.log(ratio) for ratio in ratios])
    low, high = (None if bound is None else bound - 1 for bound in (found.low, found.high))
    return {
        "slow_down_ratio": found.center - 1,
        "slow_down_low_ratio": low,
        "slow_down_high_ratio": high,
        "below_limit": None if high is None else high < LIMIT_RATIO,
    }


def disturbance(bench: Bench, pairs: int) -> dict[str, Any]:
    """Both contests, their pairs mixed at random."""
    bench.measured("none")  # its first steps pay for what later ones find warm
    windows: dict[str, list[tuple[Window, Window]]] = {"meters": [], "placebo": []}
    for number in range(pairs):
        for side in random.sample(sorted(windows), 2):
            windows[side].append(bench.pair(side))
        print(f"pair {number + 1} of {pairs}", file=sys.stderr)
    off = [pair[1] for found in windows.values() for pair in found]
    result: dict[str, Any] = {
        "device_name": device_name(bench.device),
        "pairs": pairs,
        "window_seconds": bench.seconds,
        "sampling_period_seconds": bench.period_seconds,
        "step_seconds": statistics.median(each for one in off for each in one.step_seconds),
        "meters": [part.name for part in bench.parts],
        "limit_ratio": LIMIT_RATIO,
    }
    for side, found in windows.items():
        result[side] = {}
        for name, middle in MIDDLES.items():
            ratios = [middle(on) / middle(without) for on, without in found]
            result[side][name] = {**slow_down(ratios), "pairs_ratio": ratios}
    return result


def show(found: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{found['device_name']}: steps of {found['step_seconds'] * 1e3:.2f} ms, {found['pairs']} pairs of windows of "
        f"{found['window_seconds']:g} s, sampling period {found['sampling_period_seconds']} s"
    ]
    for side in ("meters", "placebo"):
        for name, one in found[side].items():
            low, high = one["slow_down_low_ratio"], one["slow_down_high_ratio"]
            interval = "no interval from one pair" if high is None else f"95% interval {low:+.3%} to {high:+.3%}"
            word = {True: "below", False: "NOT below", None: "unknown whether below"}[one["below_limit"]]
            lines.append(
                f"{side:8} {name:11}: {one['slow_down_ratio']:+.3%}, {interval}: {word} {found['limit_ratio']:.0%}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30, help="of each contest (default: 30)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each window (default: 1)")
    parser.add_argument("--step-seconds", type=float, default=0.005, help="what a step should take (default: 0.005)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="write everything, each pair included, to this JSON file")
    parser.add_argument("--quick", action="store_true", help="3 pairs of 0.1 s: whether it runs, not what it costs")
    options = parser.parse_args(arguments)
    pairs, seconds = (3, 0.1) if options.quick else (options.pairs, options.seconds)
    try:
        found = disturbance(Bench(resolve_device(options.device), seconds, options.step_seconds), pairs)
    except UserError as error:
        print(f"disturbance: {error}", file=sys.stderr)
        return 2
    print(show(found))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
