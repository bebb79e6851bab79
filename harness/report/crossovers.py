"""From which length on one technique is faster than another, from the rows of a sweep over lengths."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pyarrow as pa

from harness.report.entries import counted
from harness.report.frame import frame_of, newest
from harness.report.metrics import LATENCY
from harness.report.ranks import scatter_of
from harness.stats.crossover import Crossover, crossover

#: What must be the same in all rows beside the length, in the order of `_rest`.
_NAMES = ("device_name", "workload", "options of model, workload or corpus", "protocol or content")


def crossover_of(
    rows: pd.DataFrame, a: str, b: str, over: str = "workload.sequence_length", metric: str = LATENCY
) -> Crossover:
    """Where technique `a` begins to have less of `metric` than `b`, from rows as `harness.read_results` gives them.

    `a` and `b` are labels as in the column `technique`; `over` is a key of the trial, as on the command line. Runs of
    one seed and length are paired; failed, flagged and replaced rows do not count. ValueError where the rows leave open
    what to compare: filter them first, by model say.
    """
    frame = frame_of(pa.Table.from_pandas(rows, preserve_index=False)) if len(rows) else rows
    usable = counted(newest(frame)) if len(frame) else frame
    sides = {side: _by_length(usable, side, over, metric) for side in dict.fromkeys((a, b))}
    _check_one_setting([setting for side in sides.values() for setting, _, _ in side.values()])
    ratios: dict[float, list[float]] = {}
    spread: dict[float, float] = {}
    for length, seed in sorted(sides[a].keys() & sides[b].keys()):
        (_, own, own_scatter), (_, other, other_scatter) = sides[a][length, seed], sides[b][length, seed]
        ratios.setdefault(length, []).append(math.log(own / other))
        spread[length] = max(spread.get(length, 0.0), math.sqrt(2) * max(own_scatter, other_scatter))
    if len(ratios) < 2:
        raise ValueError(
            f"{a} and {b} were measured together at {len(ratios)} value(s) of {over}; measure at least two, "
            f"such as {over}=512,1024,2048"
        )
    return crossover(ratios, spread)


def value_at(trial: dict[str, Any], key: str) -> Any:
    """What a trial holds under a key of the command line (`workload.batch_size`), or None."""
    head, _, rest = key.partition(".")
    found: Any = trial.get(head)
    if rest and isinstance(found, dict) and "options" in found:
        found = found["options"]
    for name in rest.split(".") if rest else ():
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _by_length(
    usable: pd.DataFrame, technique: str, over: str, metric: str
) -> dict[tuple[float, int], tuple[str, float, float]]:
    """(length, seed) to the rest of the setting, the number and the scatter to assume."""
    found: dict[tuple[float, int], tuple[str, float, float]] = {}
    known = usable[usable["technique"] == technique] if len(usable) else usable
    if len(known) == 0:
        raise ValueError(f"no comparable row of technique {technique!r}")
    if metric not in known:
        raise ValueError(f"the rows have no column {metric!r}")
    for row in known.to_dict("records"):
        trial = json.loads(row["trial_json"])
        length = value_at(trial, over)
        if isinstance(length, bool) or not isinstance(length, int | float):
            raise ValueError(f"a row of {technique!r} has no number under {over!r}; leave out rows of other workloads")
        if not row[metric] > 0:
            continue
        place = (float(length), int(row["seed"]))
        if place in found:
            raise ValueError(f"{technique!r} has two rows with {over}={length} and seed {place[1]}; filter the rows")
        found[place] = (_rest(row, trial, over), float(row[metric]), scatter_of(row, metric))
    return found


def _rest(row: dict[str, Any], trial: dict[str, Any], over: str) -> str:
    """What must not differ: everything but the technique, the seed, the meters and the length itself."""
    head, _, key = over.partition(".")
    parts = {kind: dict(trial[kind]["options"]) for kind in ("model", "workload", "corpus")}
    if head in parts and "." not in key:
        parts[head].pop(key, None)
    other = {
        name: trial.get(name) for name in ("protocol", "content", "match") if trial.get(name) not in (None, "none")
    }
    return json.dumps([row["device_name"], trial["workload"]["target"], parts, other], sort_keys=True)


def _check_one_setting(settings: list[str]) -> None:
    different = sorted(set(settings))
    if len(different) > 1:
        first, second = (json.loads(text) for text in different[:2])
        places = [name for name, one, two in zip(_NAMES, first, second, strict=True) if one != two]
        raise ValueError(f"the rows differ in more than the length: in {', '.join(places)}; filter them first")
