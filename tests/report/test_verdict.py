"""A verdict claims no more than its rows."""

from harness.report.failures import matrix_of, reasons_of
from harness.report.frame import newest


def findings(contents, rows):
    (verdict,) = contents(rows).verdicts
    return {found.question: found for found in verdict.findings}, verdict


def test_fastest_and_leanest_that_keep_quality(contents, row):
    rows = [
        row(),
        row("fast", latency_p50_seconds=0.05),
        row("lean", peak_allocated_bytes=20e6, latency_p50_seconds=0.2),
        row("reckless", latency_p50_seconds=0.01, peak_allocated_bytes=1e6, quality_bits_per_byte=5.0),
    ]
    found, verdict = findings(contents, rows)
    assert (found["Fastest"].answer, found["Fastest"].figure) == ("fast", "2.00\u00d7")
    assert (found["Least memory"].answer, found["Least memory"].figure) == ("lean", "0.20\u00d7")
    assert "reckless reaches 10.00\u00d7, but its loss is 25.0% higher" in found["Fastest"].detail
    assert "1 run each: no interval" in verdict.basis


def test_a_tie_names_both(contents, row):
    found, _ = findings(contents, [row(), row("a", latency_p50_seconds=0.05), row("b", latency_p50_seconds=0.051)])
    assert found["Fastest"].answer == "a or b"
    assert found["Fastest"].figure == "1.96\N{EN DASH}2.00\u00d7"
    assert "One run cannot tell these apart." in found["Fastest"].detail


def test_what_cannot_be_told_from_the_baseline_wins_nothing(contents, row):
    found, _ = findings(contents, [row(), row("a", latency_p50_seconds=0.098, peak_allocated_bytes=99.5e6)])
    assert found["Fastest"].answer == found["Least memory"].answer == ""
    assert "separably faster" in found["Fastest"].detail


def test_flagged_entries_win_nothing(contents, row):
    found, _ = findings(contents, [row(), row("a", latency_p50_seconds=0.001, flags=["broken"])])
    assert found["Fastest"].answer == ""


def test_without_a_baseline_there_is_no_verdict(contents, row):
    found, verdict = findings(contents, [row("a")])
    assert not found
    assert "nothing to compare with" in verdict.basis


def test_repeats_give_an_interval(contents, row):
    rows = [row(seed=s) for s in range(3)]
    rows += [row("a", seed=s, latency_p50_seconds=t) for s, t in enumerate((0.050, 0.051, 0.052))]
    found, verdict = findings(contents, rows)
    assert "95% interval 1.8" in found["Fastest"].detail
    assert verdict.basis.startswith("3 runs each, paired by seed")


def test_estimated_energy_is_no_finding(contents, row):
    found, _ = findings(contents, [row(), row("a", energy_per_token_estimated_joules=1e-9)])
    assert "Least energy" not in found
    measured = [row(gpu_energy_per_token_joules=1.0), row("a", gpu_energy_per_token_joules=0.5)]
    found, _ = findings(contents, measured)
    assert (found["Least energy"].answer, found["Least energy"].figure) == ("a", "0.50\u00d7")


def test_better_quality_needs_twice_its_error(contents, row):
    found, _ = findings(contents, [row(), row("a", quality_bits_per_byte=3.9)])
    assert "Best quality" not in found
    found, _ = findings(contents, [row(), row("a", quality_bits_per_byte=3.8)])
    assert found["Best quality"].answer == "a"


def test_unmeasured_quality_is_said(contents, row):
    rows = [row(quality_bits_per_byte=None), row("a", latency_p50_seconds=0.05, quality_bits_per_byte=None)]
    page_words = contents(rows).verdicts[0]
    from harness.report.verdict import keeps_phrase

    assert keeps_phrase(page_words.board) == "(quality was not measured)"
    assert page_words.findings[0].answer == "a"


def test_matrix_and_reasons(frame, row, failed):
    rows = newest(frame([row(), failed("a"), failed("b", "skipped", "n/a here"), row("b", workload="decode")]))
    cells = matrix_of(rows).set_index(["technique", "workload"])["status"].to_dict()
    assert cells == {
        ("none", "prefill"): "ok",
        ("a", "prefill"): "error",
        ("b", "prefill"): "skipped",
        ("b", "decode"): "ok",
    }
    assert reasons_of(rows)[["technique", "reason"]].values.tolist() == [["a", "it broke"], ["b", "n/a here"]]
