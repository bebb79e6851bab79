"""What a trial costs beyond its own warm-up and measuring: building the model, reading the text, process, row.

Runs many short trials of a tiny model in one sweep and prints, for each after the first, the time from its start to the
next one's start less the time inside its warm-up and window steps.

    python benchmarks/overhead.py [--trials 20]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
from datetime import datetime
from pathlib import Path

from harness.cli import main as harness
from harness.rows.store import Results, read_rows


def overheads(rows: list[dict]) -> list[float]:
    """Seconds between starts less the seconds inside steps, for all trials but the first and the last."""
    rows = sorted(rows, key=lambda row: row["started_at"])
    starts = [datetime.fromisoformat(row["started_at"]).timestamp() for row in rows]
    inside = [sum(row["warmup_step_seconds"]) + row["window_seconds"] for row in rows]
    return [after - before - spent for before, after, spent in zip(starts[1:], starts[2:], inside[1:], strict=False)]


def measure(workload: str, trials: int) -> list[float]:
    """Run one sweep of `trials` seeds and return the overheads."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["run", "model=tiny_llama", f"workload={workload}", f"run.repeats={trials}", f"run.results={folder}"]
        with contextlib.redirect_stderr(io.StringIO()):
            harness(command)
        return overheads(read_rows(Results(Path(folder))).table.to_pylist())


def main() -> None:
    """Print a line for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    options = parser.parse_args()
    for workload in ("decode", "prefill"):
        found = measure(workload, options.trials)
        print(
            f"{workload}: fixed cost of a trial: median {statistics.median(found):.3f} s, "
            f"min {min(found):.3f}, max {max(found):.3f}, n={len(found)}"
        )


if __name__ == "__main__":
    main()
