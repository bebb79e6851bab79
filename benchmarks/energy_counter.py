"""Is the GPU's energy counter to be believed? Three loads on the GPU of this machine, which should be otherwise idle.

steady  8192^3 bfloat16 products from 2 s before to 2 s after a window of 10 s: the integral of the average power field
        (and of the instant one) against the counter.
square  a load of one quarter duty whose period is the counter's own refresh period, held at eight phases of it: the
        energy of a cycle must not depend on the phase. The instant field is expected to fail: on an H100 it sees 25 of
        every 100 ms. A period of 1.37 refreshes, which drifts through all phases, is the control.
steps   energy of a step of about 5 ms by the harness's own loop, in short trials with cool-downs, against one long
        plain loop.

Written are the raw traces (Parquet), summary.json and square.png. The full run takes under 8 minutes, `--quick` under
150 s.

    python benchmarks/energy_counter.py --out FOLDER [--quick] [--parts steady square steps]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.interfaces import Session, Work
from harness.machine.gpu import nvml, nvml_handle
from harness.meters.energy_counter import counter_energy
from harness.meters.power_trace import PowerReading, integrated_joules, power_field, refreshed

PHASES = 8
DUTY = 0.25
CONTROL_RATIO = 1.37
#: Counter and both power fields are read this often; NVML refreshes them every 100 ms on an H100.
SPACING_NS = 4_000_000
#: No reading is begun this close before a burst, so that none delays it.
CLEAR_NS = 3_000_000
SIZE = 8192
STEP_SECONDS = 0.005
COOL_CELSIUS = 3

#: What has to hold; spreads and differences are shares of the mean.
STEADY_RATIO = 0.03
SPREAD_RATIO = 0.05
STEP_RATIO = 0.03
STEP_VARIATION_RATIO = 0.02


@dataclass(frozen=True)
class Plan:
    """How long each part looks."""

    lead_seconds: float = 2.0
    steady_seconds: float = 10.0
    phase_seconds: float = 30.0
    control_seconds: float = 30.0
    trials: int = 10
    trial_seconds: float = 3.2
    loop_seconds: float = 60.0
    cool_seconds: float = 15.0
    #: All cool-downs together.
    all_cool_seconds: float = 55.0


QUICK = Plan(
    phase_seconds=8.0,
    control_seconds=4.0,
    trials=5,
    trial_seconds=2.2,
    loop_seconds=20.0,
    cool_seconds=3.0,
    all_cool_seconds=4.0,
)


# What is read.


class Watch:
    """Reads the counter and both power fields whenever it is waited with."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        #: counter's time (ns), joules, fields' time (ns), instant stamp and watts, average stamp and watts.
        self.rows: list[tuple[float, ...]] = []
        #: Times at which the counter had moved: the middle between the reading before and the one that shows it.
        self.updates: list[float] = []

    def read(self) -> None:
        """One row."""
        library = nvml()
        joules = library.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3
        counted = time.perf_counter_ns()
        instant = power_field(self.handle, library.NVML_FI_DEV_POWER_INSTANT) or (0, math.nan)
        average = power_field(self.handle, library.NVML_FI_DEV_POWER_AVERAGE) or (0, math.nan)
        if self.rows and joules != self.rows[-1][1]:
            self.updates.append((self.rows[-1][0] + counted) / 2)
        self.rows.append((counted, joules, time.perf_counter_ns(), *instant, *average))

    def wait(self, going_on: Callable[[], bool], until_ns: float = math.inf) -> None:
        """Read now and then while `going_on()`, at most until `until_ns`, and return as near to that as can be."""
        while going_on() and (now := time.perf_counter_ns()) < until_ns:
            if until_ns - now > CLEAR_NS and (not self.rows or now - self.rows[-1][0] >= SPACING_NS):
                self.read()
            elif until_ns - now > 1_000_000:
                time.sleep(0.0003)

    def wait_seconds(self, seconds: float) -> None:
        """Read for a while."""
        self.wait(lambda: True, time.perf_counter_ns() + seconds * 1e9)

    def temperature(self) -> int:
        """Degrees Celsius of the GPU."""
        return int(nvml().nvmlDeviceGetTemperature(self.handle, nvml().NVML_TEMPERATURE_GPU))


@dataclass(frozen=True)
class Energies:
    """One window by each source: the counter's joules, those integrated, and how far off the counter can be."""

    counter: float | None
    uncertainty: float | None
    instant: float | None
    average: float | None
    reason: str

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]], start_ns: int, end_ns: int) -> Energies:
        """The energies between two times of a watch's rows."""
        found = counter_energy([(int(row[0]), row[1]) for row in rows], start_ns, end_ns)
        instant, average = (integrated_joules(trace_of(rows, name), start_ns, end_ns)[0] for name in FIELDS)
        return cls(found.joules, found.uncertainty_joules, instant, average, found.reason)


#: The power fields, and where a row holds their stamps; the watts follow.
FIELDS = {"instant": 3, "average": 5}


def trace_of(rows: Sequence[Sequence[float]], name: str) -> list[PowerReading]:
    """The refreshes of a power field; none where the GPU has no such field."""
    at = FIELDS[name]
    known = [row for row in rows if not math.isnan(row[at + 1])]
    return refreshed([PowerReading(int(row[2]), int(row[at]), row[at + 1]) for row in known])


def over(part: float | None, whole: float | None) -> float | None:
    """Their ratio, where both are known."""
    return None if part is None or not whole else part / whole


# The loads.


class Load:
    """Square bfloat16 products of normally distributed numbers."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.a = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
        self.b = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
        self.out = torch.empty_like(self.a)
        self.run(50)
        started = time.perf_counter_ns()
        self.run(50)
        self.product_ns = (time.perf_counter_ns() - started) / 50

    def start(self, products: int) -> Callable[[], bool]:
        """Launch products; the returned function says whether they are still going on."""
        for _ in range(products):
            self.torch.mm(self.a, self.b, out=self.out)
        done = self.torch.cuda.Event()
        done.record()
        return lambda: not done.query()

    def run(self, products: int) -> None:
        """Launch products and wait for them."""
        self.start(products)
        self.torch.cuda.synchronize()


def steady(watch: Watch, load: Any, plan: Plan) -> dict[str, Any]:
    """Products without a gap, from before the window until after it."""
    begun = time.perf_counter_ns()
    end = begun + (2 * plan.lead_seconds + plan.steady_seconds) * 1e9
    chunk = max(1, round(30e6 / load.product_ns))
    before = load.start(chunk)
    while time.perf_counter_ns() < end:
        after = load.start(chunk)  # queued behind the chunk before, so that the GPU never waits
        watch.wait(before)
        before = after
    watch.wait(before)
    start_ns = int(begun + plan.lead_seconds * 1e9)
    return steady_summary(watch.rows, start_ns, int(start_ns + plan.steady_seconds * 1e9))


def square_wave(watch: Watch, load: Any, seconds: float, phase: float | None, ratio: float = 1.0) -> list[int]:
    """Bursts for `seconds`; their begins (ns). At a `phase` (0 to 1) of the counter's updates, which are followed all
    the time, or at about `ratio` of their period, unlocked, where phase is None.
    """
    _, period_ns = next_update(watch.updates, 0)
    base = max(1, round(DUTY * period_ns / load.product_ns))
    products = round(ratio * base)
    cycle_ns = products / base * period_ns  # whole products; so the duty is the same at every ratio
    begun = time.perf_counter_ns()
    beats: list[int] = []
    at = begun + period_ns / 2
    while at < begun + seconds * 1e9:
        if phase is not None:
            at = beat_after(watch.updates, max(at, time.perf_counter_ns()), phase)
        watch.wait(lambda: True, at)
        beats.append(time.perf_counter_ns())
        watch.wait(load.start(products))
        at += cycle_ns if phase is None else 0.5 * period_ns
    watch.wait_seconds(3 * period_ns / 1e9)  # the counter must move again after the last beat
    return beats


def next_update(updates: Sequence[float], after_ns: float) -> tuple[float, float]:
    """The counter's first update after a time, and its period (ns), by a line through the latest observed updates."""
    latest = np.array(updates[-40:])
    if len(latest) < 5:
        raise SystemExit("energy_counter: the GPU's counter did not move five times; there is nothing to follow")
    gaps = np.diff(latest)
    numbers = np.concatenate([[0], np.cumsum(np.round(gaps / np.median(gaps)))])  # a move may have been missed
    period, first = np.polyfit(numbers, latest - latest[0], 1)
    origin = latest[0] + first
    return origin + math.ceil((after_ns - origin) / period) * period, float(period)


def beat_after(updates: Sequence[float], earliest_ns: float, phase: float) -> float:
    """The first time from `earliest_ns` on that lies `phase` of a period after an update."""
    _, period = next_update(updates, earliest_ns)
    return next_update(updates, earliest_ns - phase * period)[0] + phase * period


class Products(Session):
    """A step of a few products."""

    def __init__(self, load: Any) -> None:
        self.load, self.products = load, max(1, round(STEP_SECONDS * 1e9 / load.product_ns))

    def step(self) -> None:
        self.load.start(self.products)  # the loop around it waits

    def work(self) -> Work:
        return Work(samples=1)


def steps(watch: Watch, load: Load, plan: Plan) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trials of the harness's own loop, cooled down to the first one's start, and then one long plain loop."""
    first, trials, left = watch.temperature(), [], plan.all_cool_seconds
    for number in range(plan.trials):
        cooled = 0.0
        if number:
            cooled = cool_down(watch, first + COOL_CELSIUS, min(plan.cool_seconds, left))
        left -= cooled
        trials.append({"cooled_seconds": cooled, **trial(watch, load, plan)})
    return steps_summary(trials, long_loop(watch, load, plan)), trials


def cool_down(watch: Watch, target: float, limit_seconds: float) -> float:
    """Wait until the GPU is as cool as `target`; seconds that it took."""
    begun = time.perf_counter()
    while watch.temperature() > target and time.perf_counter() - begun < limit_seconds:
        time.sleep(0.05)
    return time.perf_counter() - begun


def trial(watch: Watch, load: Load, plan: Plan) -> dict[str, Any]:
    """One measurement as a sweep makes it."""
    from harness.meters.energy import Energy
    from harness.protocol import Protocol
    from harness.run.measure import measure

    meter = Energy(idle_after_seconds=0)
    meter.open("cuda")
    start_celsius = watch.temperature()
    protocol = Protocol(minimum_seconds=plan.trial_seconds, maximum_seconds=plan.trial_seconds + 1)
    window = measure(Products(load), protocol, "cuda", [meter], None).window
    end_celsius, found = watch.temperature(), meter.readings(window)
    return {
        "energy_per_step_joules": found.values.get("gpu_energy_per_step_joules"),
        "reason": found.reasons.get("gpu_energy_per_step_joules", ""),
        "uncertainty_joules": found.values.get("gpu_energy_uncertainty_joules"),
        "energy_joules": found.values.get("gpu_energy_joules"),
        "start_celsius": start_celsius,
        "end_celsius": end_celsius,
        "window_seconds": window.seconds,
        "step_seconds": window.step_seconds,
        **found.samples,
    }


def long_loop(watch: Watch, load: Any, plan: Plan) -> dict[str, Any]:
    """The same step over and over, waited for each time, with nothing of the harness around it."""
    products = Products(load)
    for _ in range(20):
        load.run(products.products)
    start_celsius, count, first_row = watch.temperature(), 0, len(watch.rows)
    watch.read()
    begun = time.perf_counter_ns()
    while (now := time.perf_counter_ns()) < begun + plan.loop_seconds * 1e9:
        load.run(products.products)
        count += 1
        if count % 8 == 0:  # about every 40 ms: often enough to see each move of the counter
            watch.read()
    end_celsius = watch.temperature()
    watch.read()
    watch.wait_seconds(0.3)  # the counter must move again after the last step
    found = Energies.of(watch.rows[first_row:], begun, now)
    return {
        "energy_per_step_joules": over(found.counter, count),
        "reason": found.reason,
        "uncertainty_joules": found.uncertainty,
        "start_celsius": start_celsius,
        "end_celsius": end_celsius,
        "window_seconds": (now - begun) / 1e9,
        "step_count": count,
    }


# What follows from the readings.


def spread_ratio(values: Sequence[float | None]) -> float | None:
    """Largest less smallest over the mean; None where one is unknown."""
    known = [value for value in values if value is not None]
    return (max(known) - min(known)) / statistics.fmean(known) if known and len(known) == len(values) else None


def steady_summary(rows: Sequence[Sequence[float]], start_ns: int, end_ns: int) -> dict[str, Any]:
    """Energy of the window by each source, and the integrals over the counter's."""
    found = Energies.of(rows, start_ns, end_ns)
    average = over(found.average, found.counter)
    return {
        "window_seconds": (end_ns - start_ns) / 1e9,
        "counter_joules": found.counter,
        "uncertainty_joules": found.uncertainty,
        "average_over_counter_ratio": average,
        "instant_over_counter_ratio": over(found.instant, found.counter),
        "reason": found.reason,
        "passes": None if average is None else abs(average - 1) <= STEADY_RATIO,
    }


def cycle_summary(
    rows: Sequence[Sequence[float]], beats: Sequence[int], updates: Sequence[float], lead_seconds: float = 0.5
) -> dict[str, Any]:
    """Joules of a cycle by each source over whole cycles, the first `lead_seconds` left out, and the phase that was
    reached: mean share of a period from an update to a burst (a circular mean), and how sharp it is (1: always the
    same).
    """
    beats = [beat for beat in beats if beat >= beats[0] + lead_seconds * 1e9]
    found, cycles = Energies.of(rows, beats[0], beats[-1]), len(beats) - 1
    gaps = np.diff(beats)
    turns = []
    for beat in beats:
        around = [update for update in updates if abs(update - beat) < 2e9]
        ahead, period = next_update(around, beat)
        turns.append(np.exp(2j * np.pi * (1 - (ahead - beat) / period)))
    mean = complex(np.mean(turns))
    return {
        "cycle_count": cycles,
        "cycle_seconds": float(np.mean(gaps)) / 1e9,
        "longest_cycle_ratio": float(np.max(gaps) / np.median(gaps)),
        "phase_ratio": float(np.angle(mean) / (2 * np.pi) % 1),
        "phase_sharpness_ratio": abs(mean),
        "counter_joules": over(found.counter, cycles),
        "instant_joules": over(found.instant, cycles),
        "average_joules": over(found.average, cycles),
        "uncertainty_joules": over(found.uncertainty, cycles),
        "reason": found.reason,
    }


def square_summary(phases: Sequence[Mapping[str, Any]], control: Mapping[str, Any]) -> dict[str, Any]:
    """Spread over the phases by each source; the control's mean power over theirs."""
    spreads = {f"{name}_spread_ratio": spread_ratio([run[f"{name}_joules"] for run in phases]) for name in SOURCES}
    watts = [over(run["counter_joules"], run["cycle_seconds"]) for run in phases]
    known = [value for value in watts if value is not None]
    mean = statistics.fmean(known) if known else None
    counter = spreads["counter_spread_ratio"]
    return {
        **spreads,
        "mean_power_watts": mean,
        "control_over_phases_power_ratio": over(over(control["counter_joules"], control["cycle_seconds"]), mean),
        "passes": None if counter is None else counter <= SPREAD_RATIO,
        "phases": list(phases),
        "control": dict(control),
    }


SOURCES = ("counter", "instant", "average")


def steps_summary(trials: Sequence[Mapping[str, Any]], loop: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and variation of the trials' energy per step, their mean over the long loop's, and the temperatures."""
    joules = [run["energy_per_step_joules"] for run in trials if run["energy_per_step_joules"] is not None]
    starts = [run["start_celsius"] for run in trials]
    mean = statistics.fmean(joules) if joules else None
    variation = statistics.stdev(joules) / mean if mean and len(joules) > 1 else None
    ratio = over(mean, loop["energy_per_step_joules"])
    cool = max(starts) - min(starts) <= COOL_CELSIUS
    good = None
    if ratio is not None and variation is not None and len(joules) == len(trials):
        good = abs(ratio - 1) <= STEP_RATIO and variation <= STEP_VARIATION_RATIO and cool
    scalars = [{key: value for key, value in run.items() if not isinstance(value, list)} for run in trials]
    return {
        "trial_mean_joules": mean,
        "trial_variation_ratio": variation,
        "trials_over_loop_ratio": ratio,
        "start_celsius_range": [min(starts), max(starts)],
        "starts_within_limit": cool,
        "passes": good,
        "trials": scalars,
        "loop": dict(loop),
    }


def watch_summary(rows: Sequence[Sequence[float]], updates: Sequence[float]) -> dict[str, Any]:
    """Refresh periods of counter and fields, whether stamps are of refreshes, and what a row costs to read."""
    found: dict[str, Any] = {"counter_period_seconds": float(np.median(np.diff(updates))) / 1e9}
    found["fields_read_seconds"] = statistics.median((row[2] - row[0]) / 1e9 for row in rows)
    for name, at in FIELDS.items():
        stamps = [row[at] for row in rows]
        gaps = [after.at_ns - before.at_ns for before, after in pairwise(trace_of(rows, name))]
        found[f"{name}_period_seconds"] = statistics.median(gaps) / 1e9 if gaps else None
        repeated = sum(after == before for before, after in pairwise(stamps))
        found[f"{name}_stamps_repeated_ratio"] = repeated / (len(stamps) - 1)
    return found


# What is written.

COLUMNS = ("counter_ns", "counter_joules", "power_ns", "instant_stamp", "instant_watts", "average_stamp")
COLUMNS = (*COLUMNS, "average_watts")


def write_trace(path: Path, rows: Sequence[Sequence[float]], **more: Sequence[Any]) -> None:
    """A watch's rows as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[at] for row in rows] for at, name in enumerate(COLUMNS)}
    pq.write_table(pa.table({**columns, **more}), path, compression="zstd")


def plot_square(path: Path, summary: Mapping[str, Any], title: str) -> None:
    """Energy of a cycle by phase, each source over its own mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for name, mark in (("counter", "o-"), ("instant", "s--")):
        joules = [run[f"{name}_joules"] for run in summary["phases"]]
        if None in joules:
            continue
        mean, spread = statistics.fmean(joules), summary[f"{name}_spread_ratio"]
        phases = [run["phase_ratio"] for run in summary["phases"]]
        points = sorted(zip(phases, [item / mean for item in joules], strict=True))
        label = f"{name}: spread {spread:.1%}"
        axes.plot([x for x, _ in points], [y for _, y in points], mark, label=label)
    axes.axhspan(1 - SPREAD_RATIO / 2, 1 + SPREAD_RATIO / 2, color="0.9", label=f"spread of {SPREAD_RATIO:.0%}")
    axes.set(xlabel="begin of the burst after the counter's update, in periods", title=title)
    axes.set(ylabel="energy of a cycle over its mean", xlim=(0, 1), ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)


# The parts, each with its own files.


def do_steady(watch: Watch, load: Any, plan: Plan, out: Path) -> dict[str, Any]:
    first = len(watch.rows)
    found = steady(watch, load, plan)
    write_trace(out / "steady.parquet", watch.rows[first:])
    return found


def do_square(watch: Watch, load: Any, plan: Plan, out: Path) -> dict[str, Any]:
    square_wave(watch, load, 2.0, 0.0)  # warm before the first phase counts
    order = random.Random(0).sample(range(PHASES), PHASES)  # so that heat does not look like phase
    rows: list[Any] = []
    labels: list[float] = []
    runs: dict[float, dict[str, Any]] = {}
    for number in [*order, None]:
        first, first_update, celsius = len(watch.rows), len(watch.updates), watch.temperature()
        phase = None if number is None else number / PHASES
        seconds = plan.control_seconds if phase is None else plan.phase_seconds
        beats = square_wave(watch, load, seconds, phase, 1.0 if phase is not None else CONTROL_RATIO)
        found = cycle_summary(watch.rows[first:], beats, watch.updates[first_update:])
        label = -1.0 if phase is None else phase
        runs[label] = {"asked_phase_ratio": phase, "start_celsius": celsius, **found}
        rows += watch.rows[first:]
        labels += [label] * (len(watch.rows) - first)
    write_trace(out / "square.parquet", rows, asked_phase_ratio=labels)
    control = runs.pop(-1.0)
    return square_summary([runs[phase] for phase in sorted(runs)], control)


def do_steps(watch: Watch, load: Load, plan: Plan, out: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found, trials = steps(watch, load, plan)
    pq.write_table(pa.Table.from_pylist(trials), out / "steps.parquet", compression="zstd")
    return found


PARTS = {"steady": do_steady, "square": do_square, "steps": do_steps}


def main() -> None:
    """Run the parts and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for traces, summary and plot")
    parser.add_argument("--quick", action="store_true", help="shorter windows: under 150 s in all")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    begun = time.perf_counter()

    from harness.machine.gpu import gpu_count, gpu_facts
    from harness.meters.codecarbon_model import tdp_watts

    if not gpu_count():
        raise SystemExit("energy_counter: no NVIDIA GPU here; run it on the machine whose counter is asked about")
    options.out.mkdir(parents=True, exist_ok=True)
    tdp_watts()  # its look-up takes seconds, which are not to fall between two trials
    plan, watch, load = QUICK if options.quick else Plan(), Watch(nvml_handle()), Load()
    watch.wait_seconds(1.5)
    summary: dict[str, Any] = {"gpu": gpu_facts(), "plan": vars(plan), "product_seconds": load.product_ns / 1e9}
    summary["watch"] = watch_summary(watch.rows, watch.updates)
    for name in options.parts:
        summary[name] = PARTS[name](watch, load, plan, options.out)
        summary["wall_seconds"] = time.perf_counter() - begun
        (options.out / "summary.json").write_text(json.dumps(summary, indent=1, default=str) + "\n")
        shown = {key: value for key, value in summary[name].items() if not isinstance(value, list | dict)}
        print(f"{name} ({summary['wall_seconds']:.0f} s): {json.dumps(shown)}", flush=True)
    if "square" in summary:
        plot_square(options.out / "square.png", summary["square"], f"{summary['gpu']['name']}, duty {DUTY:.0%}")


if __name__ == "__main__":
    main()
