"""One row, explained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.commands.explain import explain
from harness.errors import UserError
from harness.rows.derived import disagreeing, recomputed
from harness.rows.store import Results, write_row


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, quick: Callable[..., list[str]]) -> tuple[Path, dict[str, Any]]:
    results = tmp_path_factory.mktemp("explained")
    return results, harness.run_trial(*quick("generate"), "technique=gqa", results=str(results))


def test_every_metric_is_a_number_or_a_reason(measured: tuple[Path, dict[str, Any]]):
    text = explain(measured[0], "last")
    assert "null: no reason was given" not in text
    assert "null: not a column then" not in text
    assert f"latency_p50_seconds = {measured[1]['latency_p50_seconds']:.6g}" in text


def test_derived_columns_come_out_of_the_raw_samples(measured: tuple[Path, dict[str, Any]]):
    row = measured[1]
    assert {"latency_spread_ratio", "ttft_p50_seconds", "tpot_p50_seconds", "itl_p50_seconds"} < recomputed(row).keys()
    assert disagreeing(row) == []
    assert "from the raw samples" in explain(measured[0], "last")
    assert "  - " not in explain(measured[0], "last").partition("checks:")[2].partition("flagged")[0]


@pytest.mark.parametrize("factor", [1 + 1e-8, 15, 1 / 30])
def test_every_derived_column_is_checked(measured: tuple[Path, dict[str, Any]], factor: float):
    row = measured[1]
    for name in recomputed(row):
        # One step on a busy machine has a spread of zero.
        (line,) = disagreeing({**row, name: (row[name] or 1.0) * factor})
        assert line.startswith(name)


def test_a_column_that_its_samples_contradict_is_shown(measured: tuple[Path, dict[str, Any]], tmp_path: Path):
    wrong = {**measured[1], "throughput_tokens_per_second": measured[1]["throughput_tokens_per_second"] * 15}
    write_row(Results(tmp_path), wrong)
    text = explain(tmp_path, "last")
    assert "- throughput_tokens_per_second from the raw samples" in text
    assert "throughput x latency is" in text


def test_an_unknown_row_is_one_line(measured: tuple[Path, dict[str, Any]]):
    with pytest.raises(UserError, match=r"no row in .* has an id with 'nowhere'"):
        explain(measured[0], "nowhere")
