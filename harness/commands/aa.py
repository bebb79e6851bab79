"""The harness tests itself: one configuration on both sides of many comparisons must seldom be called different."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from harness.commands.compare import COLUMNS, Pair, RowPair, measure_pairs, parse, values, whole
from harness.errors import UserError
from harness.machine.environment import device_name
from harness.plan.config import to_trials
from harness.plan.settings import Settings
from harness.plan.single import composed
from harness.stats.pairs import LEVEL, judge, least_pairs
from harness.stats.quantiles import quantile

#: The column that is judged: the first that `harness compare` shows.
COLUMN = next(iter(COLUMNS))
#: The share of comparisons in which a difference must be found to be called detectable.
POWER = 0.8
#: After so many pairs the progress is said.
BATCH_PAIRS = 240


@dataclass(frozen=True)
class Outcome:
    """What the comparisons of a configuration with itself gave; nulls where too few were measured."""

    configuration: str
    device_name: str
    column: str
    pairs: int
    #: Comparisons whose pairs were all measured, and those left out because a trial failed or is invalid.
    comparisons: int
    left_out: int
    different: int
    #: The most that an honest 5% test calls different in 95% of such runs, by the exact binomial.
    different_allowed: int
    passed: bool
    #: How many intervals exclude 1, whatever the sign-flip test says.
    interval_excludes_one: int
    log_ratio_quartiles: tuple[float, float, float] | None
    log_ratio_deviation: float | None
    #: Computed from the measured pairs, not measured: the smallest change found in 80% of comparisons.
    detectable_computed_ratio: float | None
    trials_seconds: float


def run(overrides: Sequence[str], comparisons: int, pairs: int) -> Outcome:
    """Measure what is missing of `comparisons` x `pairs` pairs of one configuration and judge them.

    UserError for overrides that describe more than one configuration.
    """
    planned, settings = plan(overrides, comparisons * pairs)
    found = measure_pairs(planned, settings, "aa", BATCH_PAIRS)
    trial = planned[0][0]
    named = f"{trial.model.label}, {trial.technique_label}, {trial.workload.label}"
    return outcome(found, pairs, named, device_name(trial.device))


def plan(overrides: Sequence[str], count: int) -> tuple[list[Pair], Settings]:
    """`count` pairs of two consecutive repeats each; two trials of one configuration differ in their seeds alone."""
    parsed = parse(overrides)
    keys = {item.get_key_element() for item in parsed}
    if any(item.is_sweep_override() for item in parsed):
        raise UserError("aa measures one configuration against itself: give each key one value")
    if "run.repeats" in keys:
        raise UserError("run.repeats: leave it out; --comparisons and --pairs say how many trials there are")
    own = [] if "run.results" in keys else ["run.results=results/aa"]
    trials, settings = to_trials(composed([*overrides, *own, f"run.repeats={2 * count}"]))
    return list(zip(trials[::2], trials[1::2], strict=True)), settings


def outcome(found: Sequence[RowPair | None], pairs: int, configuration: str, part: str) -> Outcome:
    """What consecutive groups of `pairs` pairs say, judged as `harness compare` judges a column alone."""
    groups = [values(whole(found[first : first + pairs]), COLUMN) for first in range(0, len(found), pairs)]
    ratios = [[a / b for a, b, _ in group] for group in groups if len(group) == pairs]
    verdicts = [judge(each, same_within=0.0) for each in ratios]
    different = sum(verdict.differs for verdict in verdicts)
    logs = [math.log(ratio) for each in ratios for ratio in each]
    return Outcome(
        configuration=configuration,
        device_name=part,
        column=COLUMN,
        pairs=pairs,
        comparisons=len(ratios),
        left_out=len(groups) - len(ratios),
        different=different,
        different_allowed=(allowed := most_different(len(ratios))),
        passed=bool(ratios) and different <= allowed,
        interval_excludes_one=sum(not (v.low or 0) <= 1 <= (v.high or math.inf) for v in verdicts),
        log_ratio_quartiles=(quantile(logs, 0.25), quantile(logs, 0.5), quantile(logs, 0.75)) if logs else None,
        log_ratio_deviation=statistics.stdev(logs) if len(logs) > 1 else None,
        detectable_computed_ratio=detectable(ratios),
        trials_seconds=sum(row["trial_seconds"] for both in found if both for row in both),
    )


def most_different(comparisons: int, level: Fraction = Fraction(1, 20)) -> int:
    """The smallest k with P(X <= k) >= 95%, X binomial with `level`: more betray a test that is not honest; exact."""
    within, count = Fraction(0), -1
    while within < Fraction(19, 20):
        count += 1
        within += math.comb(comparisons, count) * level**count * (1 - level) ** (comparisons - count)
    return count


def detectable(comparisons: Sequence[Sequence[float]], power: float = POWER) -> float | None:
    """The smallest relative slow-down of A that the judge would find in `power` of these comparisons.

    Each comparison's own pairs are slowed by one factor, with A and B as they are and the other way round. None where
    no slow-down of up to eightfold is found so often, as with fewer than 6 pairs.
    """
    if not comparisons:
        return None
    both = [*comparisons, *([1 / ratio for ratio in each] for each in comparisons)]
    needed = sorted(_needed(each) for each in both)[math.ceil(power * len(both)) - 1]
    return needed if math.isfinite(needed) else None


def _needed(ratios: Sequence[float]) -> float:
    """The smallest slow-down of A that is found in these pairs, to 1/10000; infinite where there is none."""
    low, high = 0.0, 7.0
    if len(ratios) < least_pairs(1) or not _found(ratios, high):
        return math.inf
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if _found(ratios, middle) else (middle, high)
    return high


def _found(ratios: Sequence[float], slow_down: float) -> bool:
    verdict = judge([ratio * (1 + slow_down) for ratio in ratios], same_within=0.0)
    return verdict.differs and verdict.ratio > 1


def plain(found: Outcome) -> dict[str, Any]:
    """For machines: every field, by name."""
    return asdict(found)


def show(found: Outcome) -> str:
    """For people."""
    lines = [f"A/A test of {found.configuration} on {found.device_name}, by {found.column}"]
    lines.append(f"{found.comparisons} comparisons of {found.pairs} pairs; trials took {found.trials_seconds:.0f} s")
    if found.left_out:
        lines.append(
            f"{found.left_out} comparison(s) left out: a trial failed or is invalid (run.rerun=failed tries again)"
        )
    if not found.comparisons:
        return "\n".join([*lines, "no comparison has all its rows; see the rows' reasons"])
    word = "passed" if found.passed else "NOT passed"
    lines.append(
        f"called different at {LEVEL:.0%}: {found.different}; an honest test stays at or below "
        f"{found.different_allowed} in 95% of such runs (exact binomial): {word}"
    )
    lines.append(f"95% intervals that exclude 1, before the sign-flip test: {found.interval_excludes_one}")
    low, middle, high = found.log_ratio_quartiles or (math.nan,) * 3
    lines.append(f"log ratios of pairs: median {middle:+.5f}, quartiles {low:+.5f} to {high:+.5f}")
    lines.append(_detectable_line(found))
    return "\n".join(lines)


def _detectable_line(found: Outcome) -> str:
    if found.detectable_computed_ratio is None:
        return f"computed, not measured: {found.pairs} pairs find no difference in {POWER:.0%} of comparisons"
    return (
        f"computed, not measured: {found.pairs} pairs would find a slow-down of "
        f"{found.detectable_computed_ratio:.2%} in {POWER:.0%} of comparisons"
    )
