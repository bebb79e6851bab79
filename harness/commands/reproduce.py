"""A stored row measured again from what it stores alone, and old against new."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.commands.explain import find
from harness.errors import UserError
from harness.machine.environment import resolve_device
from harness.machine.software import differences
from harness.plan.building import make, make_part
from harness.plan.hydra_entry import add_user_folder
from harness.plan.settings import Settings
from harness.plan.sweep import run_sweep
from harness.rows.store import Results, read_rows
from harness.stats import student
from harness.stats.intervals import standard_error
from harness.stats.quantiles import quantile_interval
from harness.trial import Part, Trial

#: What is said of a change: within this share, or different by how much.
LATENCY_MARGIN, ENERGY_MARGIN = 0.02, 0.03
LATENCY, ENERGY, QUALITY = "latency_p50_seconds", "gpu_energy_per_token_joules", "quality_bits_per_byte"
MEMORY = ("peak_allocated_bytes", "peak_reserved_bytes", "weights_bytes", "kv_cache_bytes", "optimizer_state_bytes")
#: What differs between any two moments of one machine and explains nothing by itself.
PASSING = ("load_average", "cpu_frequency_hertz", "memory_available_bytes", "reasons")

Row = Mapping[str, Any]


def reproduce(results: Path, wanted: str, times: int = 1, user_folder: str | None = None) -> str:
    """Measure the row whose id is or contains `wanted` `times` times again; text that compares old with new.

    UserError when there is no such row, or when what it names cannot be built any more.
    """
    if times < 1:
        raise UserError("--times must be at least 1")
    if user_folder:
        add_user_folder([f"--config-dir={user_folder}"])
    stored = read_rows(Results(results)).table.to_pylist()
    old = find(stored, wanted, results)
    trial = rebuilt(old)
    made = run_sweep([trial] * times, Settings(results=str(results), rerun="all"))
    ids = {row["row_id"] for row in made}
    new = [row for row in read_rows(Results(results)).table.to_pylist() if row["row_id"] in ids]
    return show(old, sorted(new, key=lambda row: row["started_at"]))


def rebuilt(row: Row) -> Trial:
    """The trial that a row stores, after checking that it still means what it meant; UserError says what changed."""
    where = f"row {row['row_id']} cannot be measured again"
    try:
        trial = Trial.from_dict(json.loads(row["trial_json"]))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: it stores no trial that this version can read ({error!r})") from error
    kinds: list[tuple[str, Part]] = [("model", trial.model), ("workload", trial.workload), ("corpus", trial.corpus)]
    kinds += [("technique", part) for part in trial.techniques] + [("meters", part) for part in trial.meters]
    try:
        for kind, part in kinds:
            _check_same(kind, part)
        resolve_device(trial.device)
        content = {kind: made for kind, part in kinds[:3:2] if (made := make(kind, part).identity())}
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error
    for kind in sorted({*content, *trial.content}):
        if content.get(kind) != trial.content.get(kind):
            raise UserError(f"{where}: the files of its {kind} {getattr(trial, kind).name!r} have changed or are gone")
    return trial


def _check_same(kind: str, part: Part) -> None:
    """UserError where the class has other options now: their defaults would be measured, not the row."""
    now = make_part(kind, part.name, {"_target_": part.target, **part.options}).options
    if json.loads(json.dumps(now, default=str)) != json.loads(json.dumps(part.options, default=str)):
        added = ", ".join(sorted({*now} - {*part.options})) or "other values"
        raise UserError(f"{kind} {part.name!r} has options that the row does not know ({added})")


def show(old: Row, new: Sequence[Row]) -> str:
    """Old against new for people: numbers first, then what else is different."""
    lines = [
        f"old: row {old['row_id']}, {old['status']}, {old['started_at']}",
        *[f"new: row {row['row_id']}, {row['status']}, {row['started_at']}" for row in new],
        f"  {old['model']}, technique {old['technique']}, {old['workload']}, seed {old['seed']}",
        "",
    ]
    failed = [row for row in (old, *new) if row["status"] != "ok"]
    if failed:
        lines += [f"no numbers of {row['row_id']}: {row['status']}: {row.get('reason')}" for row in failed]
    else:
        lines += [*latency_lines(old, new), *energy_lines(old, new), *memory_lines(old, new), *quality_lines(old, new)]
    lines += [f"{row['row_id']} was {said}" for row in (old, *new) if (said := _quiet(row)) != "quiet"]
    changes = list(dict.fromkeys(change for row in new for change in environment_changes(old, row)))
    heading = (
        "different between old and new:" if changes else "nothing else is different: versions, code, device, machine"
    )
    return "\n".join([*lines, "", heading, *[f"  {change}" for change in changes]])


def latency_lines(old: Row, new: Sequence[Row]) -> list[str]:
    """Step time: the ratio new over old, with the interval that its runs allow."""
    ratio = _geometric_mean([row[LATENCY] for row in new]) / old[LATENCY]
    near = abs(math.log(ratio)) <= math.log1p(LATENCY_MARGIN)
    verdict = f"within {LATENCY_MARGIN:.0%}" if near else f"differs by {abs(ratio - 1):.1%}"
    lines = [f"{LATENCY}: {_shown(old, new, LATENCY)}, new/old = {ratio:.4f}: {verdict}"]
    between = between_processes(old, new)
    if between:
        low, high = between
        said = "contains 1" if low <= 1 <= high else "leaves 1 out"
        said += "; too wide to say more, give more --times" if high / low > 1 + 4 * LATENCY_MARGIN else ""
        count = f"{len(new)} new processes and one old"
        return [*lines, f"  95% interval {low:.4g} to {high:.4g} ({said}), from the scatter of {count}"]
    lines.append("  one process each has no interval between processes, so drift and change look alike; see --times")
    within = within_processes(old, new[0])
    if within:
        lines.append(f"  within these two {within[0]:.4g} to {within[1]:.4g} at 95%, as if steps were independent")
    return lines


def between_processes(old: Row, new: Sequence[Row]) -> tuple[float, float] | None:
    """95% t interval of the ratio: the old process is one draw from what the new ones scatter by. None for one."""
    if len(new) < 2:
        return None
    logs = [math.log(row[LATENCY]) for row in new]
    half = student.quantile(0.975, len(logs) - 1) * standard_error(logs) * math.sqrt(len(logs) + 1)
    center = statistics.fmean(logs) - math.log(old[LATENCY])
    return math.exp(center - half), math.exp(center + half)


def within_processes(old: Row, new: Row) -> tuple[float, float] | None:
    """Ratio of the two medians by order statistics of the raw samples, each at 97.5% so that both hold at 95%."""
    bounds = [quantile_interval(row["step_seconds"], 0.5, 0.975) for row in (old, new)]
    if bounds[0] is None or bounds[1] is None:
        return None
    return bounds[1][0] / bounds[0][1], bounds[1][1] / bounds[0][0]


def energy_lines(old: Row, new: Sequence[Row]) -> list[str]:
    """GPU energy of a token by the counter, or why there is none."""
    if any(not row.get(ENERGY) for row in (old, *new)):
        return [f"{ENERGY}: not measured ({_reason(old, new, ENERGY)})"]
    change = statistics.fmean([row[ENERGY] for row in new]) / old[ENERGY] - 1
    verdict = (
        f"within {ENERGY_MARGIN:.0%}" if abs(change) < ENERGY_MARGIN else f"differs by more than {ENERGY_MARGIN:.0%}"
    )
    return [f"{ENERGY}: {_shown(old, new, ENERGY)}, {change:+.2%}: {verdict}"]


def memory_lines(old: Row, new: Sequence[Row]) -> list[str]:
    """Each memory column: exactly as before, or by how many bytes not."""
    lines = []
    for name in MEMORY:
        if any(row.get(name) is None for row in (old, *new)):
            continue
        moved = max((row[name] - old[name] for row in new), key=abs)
        word = "exact" if not moved else f"differs by {moved:+,.0f} bytes ({moved / old[name]:+.3%})"
        lines.append(f"{name}: old {old[name]:,.0f}: {word}")
    return lines


def quality_lines(old: Row, new: Sequence[Row]) -> list[str]:
    """Held-out loss, or why there is none."""
    if any(row.get(QUALITY) is None for row in (old, *new)):
        return [f"{QUALITY}: not measured ({_reason(old, new, QUALITY)})"]
    moved = max((row[QUALITY] - old[QUALITY] for row in new), key=abs)
    return [f"{QUALITY}: {_shown(old, new, QUALITY)}, {f'differs by {moved:+.3g}' if moved else 'exact'}"]


def environment_changes(old: Row, new: Row) -> list[str]:
    """Every difference of software, device and machine: `gpu.driver_version 580.1 -> 580.2`."""
    found = differences(old["versions_json"], old["code_revision"], new["versions_json"], new["code_revision"])
    for name in ("device_name", "gpu_uuid", "git_revision"):
        if old.get(name) != new.get(name):
            found.append(f"{name} {old.get(name)} -> {new.get(name)}")
    before, after = (_flat({**_json(row, "environment_json"), **_framework(row)}) for row in (old, new))
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name) and not {*name.split(".")} & {*PASSING} and name != "gpu.uuid":
            found.append(f"{name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}")
    return found


def _framework(row: Row) -> dict[str, Any]:
    return {"framework": _json(row, "facts_json").get("framework", {})}


def _json(row: Row, name: str) -> dict[str, Any]:
    return json.loads(row.get(name) or "{}")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in facts.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _shown(old: Row, new: Sequence[Row], name: str) -> str:
    values = [row[name] for row in new]
    spread = f" ({min(values):.6g} to {max(values):.6g})" if len(values) > 1 else ""
    return f"old {old[name]:.6g}, new {statistics.median(values):.6g}{spread}"


def _quiet(row: Row) -> str:
    return str(_json(row, "facts_json").get("quiet", "quiet"))


def _reason(old: Row, new: Sequence[Row], name: str) -> str:
    row = next(row for row in (old, *new) if not row.get(name))
    return _json(row, "reasons_json").get(name, "the row does not say why")


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean([math.log(value) for value in values]))
