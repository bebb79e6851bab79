"""The report's own statistics on simulated rows without any true difference, through the report's own entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.plan.settings import Settings
from harness.report.contents import Contents, contents_of
from harness.report.markdown import markdown_of
from harness.report.metrics import ENERGY, LATENCY, MEMORY, QUALITY, high_column, low_column
from harness.report.page_html import page_of
from harness.stats.intervals import ratio_interval
from harness.stats.separation import FAMILY_LEVEL, separations

TECHNIQUES = ("none", "a", "b", "c", "d", "e")
BOARDS = 150


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.normal(0, 0.03, shape)


def skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A process is now and then much slower, never much faster."""
    return generator.exponential(0.03, shape)


def unequal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Some techniques scatter ten times as much as others. `shape`: boards, techniques, repeats."""
    deviations = np.geomspace(0.005, 0.05, shape[1])[None, :, None]
    return generator.normal(0, 1, shape) * deviations


NOISES = {"normal": normal, "skewed": skewed, "unequal": unequal}


def bound(count: int, share: float = FAMILY_LEVEL) -> float:
    """What a share that is truly `share` exceeds in one simulation of two hundred."""
    return share + 2.6 * math.sqrt(share * (1 - share) / count)


def simulated(template: pd.DataFrame, repeats: int, noise: Callable[..., np.ndarray], seed: int) -> pd.DataFrame:
    """One board for each model; techniques differ by noise only. All runs of a seed share a large drift."""
    generator = np.random.default_rng(seed)
    shape = (BOARDS, len(TECHNIQUES), repeats)
    board, technique, repeat = (place.ravel() for place in np.indices(shape))
    rows = template.loc[template.index.repeat(board.size)].reset_index(drop=True)
    drift = generator.normal(0, 0.3, (BOARDS, 1, repeats))
    config = [f"{b}-{t}" for b, t in zip(board, technique, strict=True)]
    trial = [f"{name}-{r}" for name, r in zip(config, repeat, strict=True)]
    return rows.assign(
        model=[f"m{b:04d}" for b in board],
        technique=[TECHNIQUES[t] for t in technique],
        seed=repeat,
        config_id=config,
        trial_id=trial,
        row_id=trial,
        latency_spread_ratio=0.01,
        quality_standard_error_bits_per_byte=0.03,
        **{LATENCY: 0.1 * np.exp(drift + noise(generator, shape)).ravel()},
        **{ENERGY: 2.0 * np.exp(drift + noise(generator, shape)).ravel()},
        **{MEMORY: 1e8 * np.exp(noise(generator, shape) / 20).ravel()},
        **{QUALITY: 4 + drift.repeat(len(TECHNIQUES), 1).ravel() + noise(generator, shape).ravel()},
    )


def wrong_claims(contents: Contents) -> dict[str, float]:
    """By question the share of boards that claim any difference; `ranks`: any two entries that share no rank."""
    counts = dict.fromkeys(("ranks", "Fastest", "Least memory", "Least energy", "Best quality"), 0)
    for verdict in contents.verdicts:
        counts["ranks"] += any(entry["rank_best"] > 1 for entry in verdict.board.ranked)
        for found in verdict.findings:
            counts[found.question] += bool(found.answer)
    return {question: count / len(contents.verdicts) for question, count in counts.items()}


@pytest.mark.parametrize(
    ("repeats", "noise"),
    [(Settings().repeats, "normal"), (2, "normal"), (5, "skewed"), (10, "unequal")],
)
def test_a_board_without_differences_claims_one_in_at_most_a_twentieth_of_cases(
    frame: Callable[..., pd.DataFrame], row: Callable[..., Any], repeats: int, noise: str
):
    template = frame([row()])
    contents = contents_of(simulated(template, repeats, NOISES[noise], seed=repeats), [])
    assert len(contents.verdicts) == BOARDS
    for question, share in wrong_claims(contents).items():
        assert share <= bound(BOARDS), question


def test_intervals_of_the_report_cover_the_true_ratio(frame: Callable[..., pd.DataFrame], row: Callable[..., Any]):
    rows = simulated(frame([row()]), 5, normal, seed=105)
    slower = 1.3
    rows.loc[rows["technique"] != "none", LATENCY] *= slower
    contents = contents_of(rows, [])
    entries = pd.concat([board.entries for board in contents.boards])
    entries = entries[entries["technique"] != "none"]
    inside = entries[low_column(LATENCY)].le(slower) & entries[high_column(LATENCY)].ge(slower)
    # The intervals of one board share its baseline, so they count as one board, not as five.
    assert len(entries) == BOARDS * 5
    assert inside.groupby(entries["model"]).mean().mean() == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("repeats", [5, 10, 20])
def test_the_ratio_interval_covers_in_95_of_100_experiments(repeats: int):
    generator = np.random.default_rng(repeats)
    logs = generator.normal(0.2, 0.1, (4000, repeats)).tolist()
    found = [ratio_interval(one) for one in logs]
    covered = sum(one.low <= math.exp(0.2) <= one.high for one in found)  # type: ignore[operator]
    assert 0.93 <= covered / 4000 <= 0.97


@pytest.mark.parametrize(
    ("repeats", "noise"), [(1, "assumed"), (2, "assumed"), *((n, noise) for n in (5, 10) for noise in NOISES)]
)
def test_all_pairs_of_equal_entries_are_told_apart_in_at_most_a_twentieth_of_families(repeats: int, noise: str):
    generator, families = np.random.default_rng(repeats), 4000
    draw = NOISES.get(noise, lambda generator, shape: generator.normal(0, 0.05, shape))
    wrong = 0
    for family in draw(generator, (families, 4, repeats)).tolist():
        signs = separations([dict(enumerate(runs)) for runs in family], [0.05] * 4)
        wrong += any(any(line) for line in signs)
    # A method that never claimed anything would pass the upper bound: here Holm's is nearly used up.
    assert 0.01 <= wrong / families <= bound(families)


def test_true_differences_are_found(frame: Callable[..., pd.DataFrame], row: Callable[..., Any]):
    rows = simulated(frame([row()]), 5, normal, seed=7)
    rows.loc[rows["technique"] == "a", LATENCY] /= 1.25
    answers = [verdict.findings[0].answer for verdict in contents_of(rows, []).verdicts]
    assert sum(answer == "a" for answer in answers) >= 0.8 * len(answers)


STATUSES = ("ok", "skipped", "oom", "timeout", "error", "crash")


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from("none a b c d".split()), st.integers(0, 3), st.sampled_from(STATUSES)),
        min_size=1,
        max_size=14,
        unique_by=lambda item: item[:2],
    )
)
def test_failures_never_vanish(frame, row, failed, runs):
    rows = [
        row(name, seed=seed)
        if status == "ok"
        else failed(name, status, f"because of {status} {name} {seed}", seed=seed)
        for name, seed, status in runs
    ]
    contents = contents_of(frame(rows), [])
    counted = [entry for board in contents.boards for entry in board.entries.to_dict("records")]
    assert sum(entry["attempts"] for entry in counted) == len(runs)
    assert sum(entry["runs"] for entry in counted) == sum(status == "ok" for _, _, status in runs)
    page, markdown = page_of(contents), markdown_of(contents)
    told = {row_id for ids in contents.reasons["rows"] for row_id in ids}
    for one in rows:
        assert one["row_id"] in page
        if one["status"] != "ok":
            assert one["row_id"] in told
            assert one["reason"] in markdown
    # A technique that failed somewhere takes its place in the matrix by its worst status.
    for name in {name for name, _, _ in runs}:
        worst = {status for other, _, status in runs if other == name} - {"ok", "skipped"}
        cell = contents.matrix[contents.matrix["technique"] == name].iloc[0]
        assert (cell["status"] in worst) == bool(worst)
