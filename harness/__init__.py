"""Measures what efficiency techniques for neural networks really cost and give."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def run_trial(*overrides: str, results: str = "results") -> dict[str, Any]:
    """Measure one trial in a process of its own and return its row, storing it below `results`.

    `overrides` are those of `harness run`, such as `"model=tiny_llama", "technique=lora"`. A trial that has a row on
    this machine is not measured again; its newest row is returned. Raises `harness.errors.UserError` for bad input and
    for overrides that describe more than one trial.
    """
    from harness.plan.single import run_single

    return run_single(list(overrides), results)


def read_results(results: str = "results") -> Any:
    """All rows below `results` as a pandas DataFrame, oldest first; files that cannot be read are named as warnings."""
    import warnings
    from pathlib import Path

    from harness.rows.store import Results, read_rows

    found = read_rows(Results(Path(results)))
    for line in found.unreadable:
        warnings.warn(line, stacklevel=2)
    frame = found.table.to_pandas()
    return frame.sort_values("started_at", ignore_index=True) if len(frame) else frame


def crossover(
    rows: Any, a: str, b: str, over: str = "workload.sequence_length", metric: str = "latency_p50_seconds"
) -> Any:
    """From which length on technique `a` needs less of `metric` than `b`: a `harness.stats.crossover.Crossover`.

    `rows` are those of `read_results`, of one model and setting; `over` is the swept key. ValueError says what to
    filter or to measure where they do not decide what to compare.
    """
    from harness.report.crossovers import crossover_of

    return crossover_of(rows, a, b, over, metric)
