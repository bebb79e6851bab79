"""Newest rows, repeats, ratios, quality and staleness against values worked out by hand."""

import math

import pandas as pd
import pytest

from harness.report.entries import entries_of
from harness.report.frame import newest
from harness.report.metrics import LATENCY, MEMORY, high_column, low_column, ratio_column
from harness.report.quality import with_quality
from harness.report.ratios import with_ratios
from harness.report.staleness import stale_rows, summary_of


def entries(frame, rows):
    table = newest(frame(rows))
    return with_quality(with_ratios(entries_of(table), table)).set_index("technique")


def test_the_newest_row_of_a_trial_counts_and_failures_count_too(frame, row, failed):
    rows = [row("a", number=1), failed("a", number=2), row("b", number=3), row("b", number=1, latency_p50_seconds=9.0)]
    found = newest(frame(rows)).set_index("technique")
    assert found.loc["a", "status"] == "error"
    assert found.loc["b", "latency_p50_seconds"] == 0.1


def test_another_part_is_another_measurement(frame, row):
    assert len(newest(frame([row(), row(device_name="Other")]))) == 2


def test_one_run_gives_a_ratio_without_an_interval(frame, row):
    found = entries(frame, [row(), row("a", latency_p50_seconds=0.05, peak_allocated_bytes=25e6)])
    assert found.loc["a", ratio_column(LATENCY)] == pytest.approx(0.5)
    assert found.loc["a", ratio_column(MEMORY)] == pytest.approx(0.25)
    assert math.isnan(found.loc["a", low_column(LATENCY)])
    assert found.loc["a", "pairs"] == 1


def test_repeats_are_paired_by_seed(frame, row):
    # Each seed is half the baseline's time, though the seeds differ tenfold: the ratio is exact.
    base = [row(seed=s, latency_p50_seconds=0.1 * 10**s) for s in (0, 1)]
    fast = [row("a", seed=s, latency_p50_seconds=0.05 * 10**s) for s in (0, 1)]
    found = entries(frame, base + fast).loc["a"]
    assert found["runs"] == found["pairs"] == 2
    assert found["latency_p50_seconds"] == pytest.approx(0.275)
    for name in (ratio_column, low_column, high_column):
        assert found[name(LATENCY)] == pytest.approx(0.5)


def test_interval_of_ratios_by_hand(frame, row):
    ratios = (0.5, 0.6, 0.72)
    rows = [row(seed=s) for s in range(3)]
    rows += [row("a", seed=s, latency_p50_seconds=0.1 * ratio) for s, ratio in enumerate(ratios)]
    found = entries(frame, rows).loc["a"]
    # log(0.72 / 0.6) = log(0.6 / 0.5) = 0.18232, the standard deviation of the logarithms
    half = 4.302653 * math.log(1.2) / math.sqrt(3)
    assert found[ratio_column(LATENCY)] == pytest.approx(0.6)
    assert found[low_column(LATENCY)] == pytest.approx(0.6 * math.exp(-half), rel=1e-6)
    assert found[high_column(LATENCY)] == pytest.approx(0.6 * math.exp(half), rel=1e-6)


def test_a_seed_without_a_baseline_has_no_ratio(frame, row):
    found = entries(frame, [row(seed=0), row("a", seed=1)])
    assert found.loc["a", "pairs"] == 0
    assert math.isnan(found.loc["a", ratio_column(LATENCY)])


@pytest.mark.parametrize("name", ["model", "workload", "corpus", "device_name"])
def test_a_baseline_of_another_board_is_no_baseline(frame, row, name):
    assert entries(frame, [row(), row("a", **{name: "other"})]).loc["a", "pairs"] == 0


def test_another_protocol_is_another_board(frame, row):
    longer = row("a", trial={"protocol": {"minimum_samples": 99}})
    assert entries(frame, [row(), longer]).loc["a", "pairs"] == 0


def test_two_baseline_runs_of_one_seed_join_once(frame, row):
    other = row(number=5) | {"config_id": "other", "trial_id": "other", "latency_p50_seconds": 0.2}
    found = entries(frame, [row(), other, row("a", latency_p50_seconds=0.1)])
    assert found.loc["a", ratio_column(LATENCY)] == pytest.approx(0.5)


def test_a_flagged_baseline_is_not_compared_with(frame, row):
    found = entries(frame, [row(flags=["weights_bytes 2 exceeds peak_allocated_bytes 1"]), row("a")])
    assert found.loc["a", "pairs"] == 0


@pytest.mark.parametrize(("loss", "kept"), [(3.9, True), (4.0, True), (4.039, True), (4.041, False)])
def test_quality_within_one_percent_is_kept(frame, row, loss, kept):
    assert entries(frame, [row(), row("a", quality_bits_per_byte=loss)]).loc["a", "keeps_quality"] == kept


def test_quality_within_a_standard_error_of_the_paired_difference_is_kept(frame, row):
    # Differences 0 and 0.2: mean 0.1, standard error 0.1, above the 1% of 0.04.
    rows = [row(seed=s) for s in (0, 1)]
    rows += [row("a", seed=s, quality_bits_per_byte=4.0 + 0.2 * s) for s in (0, 1)]
    assert entries(frame, rows).loc["a", "keeps_quality"]


def test_unmeasured_quality_is_neither_kept_nor_lost(frame, row):
    assert entries(frame, [row(), row("a", quality_bits_per_byte=None)]).loc["a", "keeps_quality"] is None


def test_a_failed_repeat_leaves_the_others(frame, row, failed):
    found = entries(frame, [row(), row("a"), failed("a", seed=1)]).loc["a"]
    assert (found["status"], found["runs"], found["attempts"]) == ("ok", 1, 2)


def test_rows_of_older_software_are_found(frame, row):
    old = row("a", versions_json='{"torch": "2.11.0"}', number=1)
    stale = stale_rows(frame([old, row("b", number=2)]))
    assert stale["row_id"].tolist() == [old["row_id"]]
    assert summary_of(stale, 2) == ["1 of 2 rows are older: torch 2.11.0 \u2192 2.13.0"]


def test_same_software_is_not_stale(frame, row):
    assert not len(stale_rows(frame([row("a", number=1), row("b", number=2)])))


def test_two_configurations_of_one_name_are_told_apart(frame, row):
    other = row("a", number=3) | {"config_id": "ffff0000", "trial_id": "t"}
    table = newest(frame([row(), row("a"), other]))
    labels = entries_of(table)["label"].tolist()
    assert len(set(labels)) == 3
    assert "a (ffff00)" in labels
    assert pd.Series(labels).str.fullmatch("none").any()


def test_an_edited_model_of_the_same_name_is_another_board(contents, row):
    wide = {"model": {"name": "tiny", "changes": [], "target": "x.Y", "options": {"width": 96}}}
    boards = contents([row(), row("a"), row("none", trial=wide) | {"config_id": "c", "trial_id": "t"}]).boards
    assert [len(board.entries) for board in boards] in ([1, 2], [2, 1])
    assert {board.difference for board in boards} == {"width=absent", "width=96"}
    assert len({board.slug for board in boards}) == 2
