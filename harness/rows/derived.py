"""Every derived column of a row again, from its raw samples and counts alone."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness.rows import curve
from harness.stats.quantiles import quantile, quantile_interval

#: What the processor and its memory modules are estimated to take.
ESTIMATES = ("cpu_energy_estimated_joules", "memory_energy_estimated_joules")


def recomputed(row: Mapping[str, Any]) -> dict[str, float]:
    """Derived columns by name, as the stored samples give them; only those whose sources the row holds.

    A column that the row leaves null with a reason is left out: its meter had grounds that the samples do not show.
    """
    if not row.get("step_seconds"):
        return {}
    reasons = json.loads(row.get("reasons_json") or "{}")
    parts = (_step_times, _token_times, _rates, _memory, _energy, _estimates, _carbon, _to_target)
    found = {name: value for part in parts for name, value in part(row).items()}
    return {name: value for name, value in found.items() if row.get(name) is not None or name not in reasons}


def disagreeing(row: Mapping[str, Any]) -> list[str]:
    """A line for each derived column that its own raw samples contradict by more than 1e-9."""
    return [
        f"{name} is {row.get(name)}, its raw samples give {value}"
        for name, value in recomputed(row).items()
        if not agrees(row.get(name), value)
    ]


def agrees(stored: float | None, value: float) -> bool:
    """Whether a stored number is the recomputed one, to 1e-9 of it."""
    return stored is not None and math.isclose(stored, value, rel_tol=1e-9, abs_tol=1e-300)


def _step_times(row: Mapping[str, Any]) -> dict[str, float]:
    seconds: Sequence[float] = row["step_seconds"]
    found = {
        "latency_p50_seconds": statistics.median(seconds),
        "latency_mean_seconds": math.fsum(seconds) / len(seconds),
        "latency_spread_ratio": (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / statistics.median(seconds),
    }
    for name, fraction in (("p90", 0.9), ("p99", 0.99)):
        if row.get(f"latency_{name}_seconds") is not None:
            found[f"latency_{name}_seconds"] = quantile(seconds, fraction)
            low, high = quantile_interval(seconds, fraction) or (math.nan, math.nan)
            found |= {f"latency_{name}_low_seconds": low, f"latency_{name}_high_seconds": high}
    if row.get("device_step_seconds"):
        found["device_latency_p50_seconds"] = statistics.median(row["device_step_seconds"])
    return found


def _token_times(row: Mapping[str, Any]) -> dict[str, float]:
    if row.get("ttft_seconds"):
        each = row["step_tokens_count"] // row["step_samples_count"]
        spans = zip(row["request_seconds"], row["ttft_seconds"], strict=True)
        found = {"ttft_p50_seconds": statistics.median(row["ttft_seconds"])}
        if row.get("token_gap_seconds"):
            found["itl_p50_seconds"] = statistics.median(row["token_gap_seconds"])
            found["tpot_p50_seconds"] = statistics.median([(whole - first) / (each - 1) for whole, first in spans])
        return found
    if row.get("token_kind") == "output":
        return dict.fromkeys(("tpot_p50_seconds", "itl_p50_seconds"), statistics.median(row["step_seconds"]))
    return {}


def _rates(row: Mapping[str, Any]) -> dict[str, float]:
    per_second = len(row["step_seconds"]) / math.fsum(row["step_seconds"])
    found = {
        "throughput_tokens_per_second": row["step_tokens_count"] * per_second,
        "throughput_samples_per_second": row["step_samples_count"] * per_second,
    }
    if row.get("step_model_flops") is not None:
        found["model_flops_per_second"] = row["step_model_flops"] * per_second
    works = (
        ("mfu", "flops_per_second", row.get("step_model_flops")),
        ("mbu", "bytes_per_second", row.get("step_moved_bytes")),
    )
    facts = _facts(row)
    for fact, infix in (("datasheet_roof", ""), ("measured_roof", "_of_measured_roof")):
        roof = facts.get(fact) or {}
        for name, unit, work in works:
            if work is not None and roof.get(unit):
                found[f"{name}{infix}_ratio"] = work * per_second / roof[unit]
    return found


def _memory(row: Mapping[str, Any]) -> dict[str, float]:
    reserved, allocated = row.get("peak_reserved_bytes"), row.get("peak_allocated_bytes")
    return {} if reserved is None or allocated is None else {"fragmentation_bytes": reserved - allocated}


def _energy(row: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    if row.get("gpu_power_watts"):
        found["gpu_power_maximum_watts"] = max(row["gpu_power_watts"])
    before, after = row.get("gpu_idle_power_watts"), row.get("gpu_idle_power_after_watts")
    if before is not None and after is not None:
        found["idle_power_moved_ratio"] = after / before - 1
    joules, steps, seconds = row.get("gpu_energy_joules"), len(row["step_seconds"]), row["window_seconds"]
    if joules is None:
        return found
    found |= {"gpu_energy_per_step_joules": joules / steps, "gpu_power_mean_watts": joules / seconds}
    if row["step_tokens_count"]:
        found["gpu_energy_per_token_joules"] = joules / steps / row["step_tokens_count"]
    if before is not None:
        found["gpu_energy_net_joules"] = joules - before * seconds
    if row.get("gpu_energy_integrated_joules") is not None:
        found["gpu_energy_integrated_over_counter_ratio"] = row["gpu_energy_integrated_joules"] / joules
    return found


def _estimates(row: Mapping[str, Any]) -> dict[str, float]:
    parts = [row.get(name) for name in ESTIMATES]
    joules = math.fsum(part for part in parts if part is not None)
    tokens = len(row["step_seconds"]) * row["step_tokens_count"]
    return {"energy_per_token_estimated_joules": joules / tokens} if None not in parts and tokens else {}


def _carbon(row: Mapping[str, Any]) -> dict[str, float]:
    """Source: Software Carbon Intensity 1.1, (E x I + M) / R with PUE on E."""
    found: dict[str, float] = {}
    pue = _facts(row).get("pue")
    factor = pue if isinstance(pue, int | float) else 1.0
    intensity, embodied = row.get("grid_intensity_grams_per_kilowatt_hour"), row.get("embodied_grams")
    counts = {"token": row["step_tokens_count"], "sample": row["step_samples_count"]}
    for infix in ("", "_estimated"):
        joules = row.get(f"sci_energy{infix}_joules")
        if joules is None or intensity is None:
            continue
        grams = joules * factor * intensity / 3.6e6
        if infix:
            found["carbon_estimated_grams"] = grams
        for unit, count in counts.items():
            if embodied is not None and count:
                found[f"sci{infix}_grams_per_{unit}"] = (grams + embodied) / count / len(row["step_seconds"])
    return found


def _to_target(row: Mapping[str, Any]) -> dict[str, float]:
    target = _facts(row).get("target_bits_per_byte")
    return {} if target is None or not row.get(curve.TOKENS) else curve.to_target(row, target)


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(row.get("facts_json") or "{}")
