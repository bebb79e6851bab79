"""Ranks say no more than the runs do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.boards import boards_of
from harness.report.entries import entries_of
from harness.report.frame import newest
from harness.report.pareto import front
from harness.report.quality import with_quality
from harness.report.ranks import rank_range, with_ranks
from harness.report.ratios import with_ratios
from harness.stats.separation import separations


def ranked(frame, rows):
    table = newest(frame(rows))
    return with_ranks(with_quality(with_ratios(entries_of(table), table))).set_index("technique")


@pytest.mark.parametrize(("spread", "slower", "apart"), [(0.0, 1.1, False), (0.05, 1.3, True), (0.3, 1.3, False)])
def test_one_run_tells_only_what_no_scatter_of_processes_explains(frame, row, spread, slower, apart):
    # 5% between processes is assumed, or the spread within the runs where that is more.
    rows = [row(latency_spread_ratio=spread), row("a", latency_p50_seconds=0.1 * slower, latency_spread_ratio=spread)]
    assert (ranked(frame, rows).loc["a", "rank_best"] == 2) == apart


def test_two_runs_do_not_show_their_own_scatter(frame, row):
    rows = [row(seed=s) for s in range(2)] + [row("a", seed=s, latency_p50_seconds=0.101) for s in range(2)]
    assert ranked(frame, rows).loc["a", ["rank_best", "rank_worst"]].tolist() == [1, 2]


def test_what_every_pair_of_runs_shows_is_told_although_seeds_differ_more(frame, row):
    rows = [row(seed=s, latency_p50_seconds=0.1 * (1 + s)) for s in range(5)]
    rows += [row("a", seed=s, latency_p50_seconds=0.1 * (1 + s) * (1.02 + 1e-3 * s)) for s in range(5)]
    assert ranked(frame, rows).loc["a", ["rank_best", "rank_worst"]].tolist() == [2, 2]


def test_ties_share_a_range(frame, row):
    rows = [row(), row("a", latency_p50_seconds=0.05), row("b", latency_p50_seconds=0.051)]
    found = ranked(frame, rows)
    assert found.loc["a", ["rank_best", "rank_worst"]].tolist() == [1, 2]
    assert found.loc["b", ["rank_best", "rank_worst"]].tolist() == [1, 2]
    assert found.loc["none", ["rank_best", "rank_worst"]].tolist() == [3, 3]


def test_overlapping_intervals_of_repeats_share_a_range(frame, row):
    rows = [row(seed=s) for s in range(3)]
    rows += [row("a", seed=s, latency_p50_seconds=t) for s, t in enumerate((0.05, 0.06, 0.055))]
    rows += [row("b", seed=s, latency_p50_seconds=t) for s, t in enumerate((0.057, 0.052, 0.06))]
    rows += [row("c", seed=s, latency_p50_seconds=t) for s, t in enumerate((0.0200, 0.0201, 0.0202))]
    found = ranked(frame, rows)
    assert found.loc["c", ["rank_best", "rank_worst"]].tolist() == [1, 1]
    assert found.loc["a", ["rank_best", "rank_worst"]].tolist() == found.loc["b", ["rank_best", "rank_worst"]].tolist()


@pytest.mark.parametrize("flag", ["technique a changed nothing that was seen", "3 tokens were counted where 4 were"])
def test_flagged_rows_are_never_ranked(frame, row, flag):
    found = ranked(frame, [row(), row("a", latency_p50_seconds=0.001, flags=[flag])])
    assert found["rank_best"].isna()["a"]
    assert found.loc["none", "rank_best"] == 1
    assert found.loc["a", "latency_p50_seconds"] == 0.001


def test_one_flagged_repeat_flags_the_entry(frame, row):
    found = ranked(frame, [row(seed=0), row(seed=1), row("a", seed=0), row("a", seed=1, flags=["mfu_ratio is 2"])])
    assert found["rank_best"].isna()["a"]


def test_a_window_at_its_time_limit_stays_ranked(frame, row):
    found = ranked(frame, [row(), row("a", flags=["not converged: time limit"], converged=False)])
    assert not found["rank_best"].isna()["a"]
    assert not found.loc["a", "converged"]


def test_flagged_entries_stay_on_the_board_below_the_ranked(frame, row):
    table = ranked(frame, [row(), row("a", latency_p50_seconds=0.001, flags=["broken"])]).reset_index()
    (board,) = boards_of(table)
    assert board.measured["technique"].tolist() == ["none", "a"]
    assert [entry["technique"] for entry in board.ranked] == ["none"]


RUNS = st.lists(st.dictionaries(st.integers(0, 5), st.floats(-3, 3), min_size=1), min_size=1, max_size=8)


@given(RUNS, st.floats(0.001, 0.5))
def test_ranges_are_ranks(values, scatter):
    signs = separations(values, [scatter] * len(values))
    ranges = rank_range(signs)
    assert all(1 <= best <= worst <= len(values) for best, worst in ranges)
    for a, (_, worst) in enumerate(ranges):
        for b, (best, _) in enumerate(ranges):
            assert signs[a][b] == -signs[b][a]
            if signs[a][b] < 0:
                assert worst < len(values)
                assert best > 1


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30))
def test_the_front_is_what_nothing_beats(points):
    xs, ys = zip(*points, strict=True)
    kept = front(xs, ys)
    beaten = [any((a <= x and b <= y) and (a, b) != (x, y) for a, b in points) for x, y in points]
    assert sorted(kept) == [i for i, lost in enumerate(beaten) if not lost]
    assert [xs[i] for i in kept] == sorted(xs[i] for i in kept)


def test_a_front_where_more_is_better():
    assert front([1, 2, 3], [1, 2, 5], x_lower=False) == [0, 1, 2]
    assert front([1, 2, 3], [3, 2, 1], x_lower=False) == [2]
