"""One row, explained: where each number came from, what was not measured and why, and whether it still adds up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.commands.listing import listing
from harness.errors import UserError
from harness.plan.building import nearest
from harness.rows.checks import broken_identities
from harness.rows.derived import agrees, recomputed
from harness.rows.store import Results, read_rows


def explain(results: Path, wanted: str) -> str:
    """Text for the row whose id is or contains `wanted`, or the newest for `last`; UserError when there is none."""
    row = find(read_rows(Results(results)).table.to_pylist(), wanted, results)
    lines = [*_head(row), ""]
    if row["status"] != "ok":
        return "\n".join([*lines, f"no numbers: {row['reason']}", *filter(None, [row.get("traceback")])])
    return "\n".join([*lines, *_method(row), "", *_numbers(row), "", *_operators(row), "", *_checks(row)])


def find(rows: list[dict[str, Any]], wanted: str, results: Path) -> dict[str, Any]:
    """The newest row whose id contains `wanted`."""
    rows = sorted(rows, key=lambda row: row["started_at"])
    found = rows if wanted == "last" else [row for row in rows if wanted in row["row_id"]]
    if not found:
        near = nearest(wanted, [row["row_id"] for row in rows])
        raise UserError(f"no row in {str(results)!r} has an id with {wanted!r}.{near} `last` is the newest.")
    return found[-1]


def _head(row: Mapping[str, Any]) -> list[str]:
    return [
        f"row {row['row_id']} ({row['status']})",
        f"  {row['model']}, technique {row['technique']}, {row['workload']}, text {row['corpus']}, seed {row['seed']}",
        f"  on {row['device_name']}, {row['started_at']}, program {row['code_revision']}",
        f"  made by: {row['command']}",
        f"  log: {row['log']}",
    ]


def _method(row: Mapping[str, Any]) -> list[str]:
    warmup, steps = row["warmup_step_seconds"], row["step_seconds"]
    changed = {name: text for name, text in json.loads(row["changed_json"]).items() if text}
    return [
        "how it was measured:",
        f"  warm-up: {len(warmup)} steps, {sum(warmup):.3g} s, {'' if row['warmup_settled'] else 'never '}settled",
        f"  window: {len(steps)} steps, {row['window_seconds']:.4g} s, ended by: {row['stop_reason']}",
        f"  a step: {row['step_tokens_count']} {row['token_kind']} tokens",
        f"  model FLOPs of a step: {_number(row['step_model_flops'])}",
        *[f"  {name} changed: {text}" for name, text in changed.items()],
        *[f"  {key}: {value}" for key, value in _plain(json.loads(row["facts_json"])).items() if _said(key, value)],
    ]


def _said(key: str, value: Any) -> bool:
    return value not in (None, {}, []) and key != "operators"


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested facts as `framework.threads`; why some of them are missing stands in the row."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        nested = value if isinstance(value, dict) else {}
        found |= {f"{key}.{name}": one for name, one in nested.items() if name != "reasons"} or {key: value}
    return found


def _numbers(row: Mapping[str, Any]) -> list[str]:
    reasons, lines = json.loads(row["reasons_json"]), ["numbers:"]
    for meter in listing("meters"):
        lines.append(f"  {meter['name']}: {meter['about']}")
        absent: dict[str, list[str]] = {}
        for metric in meter["metrics"]:
            name = metric["name"]
            value = row.get(name)
            if value is None:
                absent.setdefault(reasons.get(name, "not a column then"), []).append(name)
            else:
                lines.append(f"    {name} = {_number(value)}\n        {metric['meaning']}")
        lines += [f"    null: {reason}\n        {', '.join(names)}" for reason, names in absent.items()]
    return lines


def _operators(row: Mapping[str, Any]) -> list[str]:
    """The longest operators of a step, where they were watched."""
    found = json.loads(row["facts_json"]).get("operators") or []
    known = [each for each in found if each["seconds"] is not None]
    if not known:
        return []
    lines = ["longest operators of a step of its own:"]
    for each in known[:10]:
        flops = f", {each['flops']:.4g} FLOPs" if each["flops"] else ""
        lines.append(f"  {each['name']} ({each['group']}): {each['seconds']:.3g} s in {each['calls']} calls{flops}")
    return lines


def _checks(row: Mapping[str, Any]) -> list[str]:
    lines = ["checks:"]
    for name, value in recomputed(row).items():
        mark = "+" if agrees(row.get(name), value) else "-"
        lines.append(f"  {mark} {name} from the raw samples: {_number(value)}")
    broken = broken_identities(row)
    lines += [f"  - {line}" for line in broken] or ["  + every identity holds"]
    return [*lines, *[f"  - flagged when it was measured: {flag}" for flag in row["flags"]]]


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1e4 and float(value).is_integer() else f"{value:.6g}"
