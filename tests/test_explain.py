"""One row, explained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.errors import UserError
from harness.explain import explain, recomputed
from harness.store import Results, write_row


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
    found = recomputed(row)
    assert len(found) >= 5
    for name, value in found.items():
        assert row[name] == pytest.approx(value, rel=1e-9), name


def test_a_column_that_its_samples_contradict_is_shown(measured: tuple[Path, dict[str, Any]], tmp_path: Path):
    wrong = {**measured[1], "throughput_tokens_per_second": measured[1]["throughput_tokens_per_second"] * 15}
    write_row(Results(tmp_path), wrong)
    text = explain(tmp_path, "last")
    assert "- throughput_tokens_per_second from the raw samples" in text
    assert "throughput x latency is" in text


def test_an_unknown_row_is_one_line(measured: tuple[Path, dict[str, Any]]):
    with pytest.raises(UserError, match=r"no row in .* has an id with 'nowhere'"):
        explain(measured[0], "nowhere")
