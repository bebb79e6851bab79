"""Is a known slow-down found? Many comparisons of decoding with decoding whose steps are 2% longer.

Each comparison is `--pairs` random AB/BA pairs of fresh processes, measured and judged as `harness compare` does.
Printed, and written as JSON, are how many comparisons called A faster, and how many had the right sign. The rows stay
in `--results`: after an interrupt the same command goes on.

    python benchmarks/injected.py [--comparisons 100] [--pairs 6] [--slow-ratio 0.02] [model=small_llama ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.commands.compare import COLUMNS, RowPair, measure_pairs, plan_pairs, values, whole
from harness.errors import UserError
from harness.plan.single import user_folder
from harness.stats.pairs import judge

COLUMN = next(iter(COLUMNS))
OWN = Path(__file__).parent / "slow_down"


def summary(found: Sequence[RowPair | None], pairs: int, slow_ratio: float) -> dict[str, Any]:
    """What consecutive groups of `pairs` pairs (A as it is, B slowed) say; shares are None without a whole group."""
    groups = [values(whole(found[first : first + pairs]), COLUMN) for first in range(0, len(found), pairs)]
    ratios = [[a / b for a, b, _ in group] for group in groups if len(group) == pairs]
    verdicts = [judge(each, same_within=0.0) for each in ratios]
    count = len(verdicts)

    def share(number: int) -> float | None:
        return number / count if count else None

    return {
        "slow_ratio": slow_ratio,
        "column": COLUMN,
        "pairs": pairs,
        "comparisons": count,
        "left_out": len(groups) - count,
        "detected_ratio": share(sum(verdict.differs and verdict.ratio < 1 for verdict in verdicts)),
        "called_faster_ratio": share(sum(verdict.differs and verdict.ratio > 1 for verdict in verdicts)),
        "right_sign_ratio": share(sum(verdict.ratio < 1 for verdict in verdicts)),
        "slow_downs_found_ratio": sorted(1 / verdict.ratio - 1 for verdict in verdicts),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--slow-ratio", type=float, default=0.02)
    parser.add_argument("--results", default="results/injected", help="folder of the rows and of injected.json")
    parser.add_argument("overrides", nargs="*", default=["model=tiny_llama"], help="as for run (default: %(default)s)")
    options = parser.parse_args(arguments)
    swept = ["workload=slowed_decode", f"workload.slow_ratio=0.0,{options.slow_ratio}"]
    overrides = [*options.overrides, *swept, f"run.results={options.results}", *user_folder(str(OWN))]
    try:
        planned, settings = plan_pairs(overrides, options.comparisons * options.pairs)
        found = measure_pairs(planned, settings, "compare", batch_pairs=20 * options.pairs)
    except UserError as error:
        print(f"injected: {error}", file=sys.stderr)
        return 2
    trial = planned[0][0]
    told = {"model": trial.model.label, "device": trial.device, "overrides": options.overrides}
    told |= summary(found, options.pairs, options.slow_ratio)
    Path(options.results, "injected.json").write_text(json.dumps(told, indent=2) + "\n")
    print("\n".join(f"{name}: {value}" for name, value in told.items() if name != "slow_downs_found_ratio"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
