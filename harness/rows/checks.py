"""Identities that must hold in every row. A row that breaks one is flagged, shown, and never ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

#: Clocks and counters of different sources agree to this.
TOLERANCE = 1e-6


def broken_identities(row: Mapping[str, Any]) -> list[str]:
    """A line for each identity that the row breaks. Null columns break nothing."""
    found = [
        *_ratios(row),
        *_memory_order(row),
        *_memory_parts(row),
        *_energy(row),
        *_work(row),
        *_positive(row),
    ]
    return [line for line in found if line]


#: What a memory peak is made of; each has a column.
MEMORY_PARTS = (
    "weights",
    "gradient",
    "optimizer_state",
    "kv_cache",
    "activation",
    "workspace",
    "other",
    "unattributed",
)
#: Ratios that no working step can have at zero.
ABOVE_ZERO = (
    "mfu_ratio",
    "mfu_at_clock_ratio",
    "mfu_of_measured_roof_ratio",
    "mbu_ratio",
    "mbu_of_measured_roof_ratio",
)
#: A spread may exceed 1, and the busiest expert's load the mean; processor time is counted in ticks, which may round
#: above the window; two sources of energy may differ either way, and so may idle power before and after.
UNBOUNDED = (
    "latency_spread_ratio",
    "expert_load_maximum_over_mean_ratio",
    "cpu_busy_ratio",
    "gpu_energy_integrated_over_counter_ratio",
    "idle_power_moved_ratio",
)
#: A measured roof is a sample with noise of its own, and a trial may meet a quieter moment than the calibration did.
MEASURED, MEASURED_LIMIT = "_of_measured_roof_ratio", 1.1
ADVICE = " unless the roof is too low: run `harness calibrate` again"


def _ratios(row: Mapping[str, Any]) -> list[str]:
    ratios = {name: row[name] for name in row if name.endswith("_ratio") and name not in UNBOUNDED}
    return [
        f"{name} is {value:.4g}, which it cannot be{ADVICE if name.endswith(MEASURED) else ''}"
        for name, value in ratios.items()
        if value is not None and _impossible(name, value)
    ]


def _impossible(name: str, ratio: float) -> bool:
    limit = MEASURED_LIMIT if name.endswith(MEASURED) else 1 + 1e-3
    return not 0 <= ratio <= limit or (ratio == 0 and name in ABOVE_ZERO)


#: A peak's part that nothing explains, and a formula that the bytes held differ from, stay below this share.
UNEXPLAINED_RATIO = 0.02


def _memory_order(row: Mapping[str, Any]) -> list[str]:
    found = []
    for prefix in ("peak", "peak_warmup", "peak_load"):
        order = [f"{prefix}_{kind}_bytes" for kind in ("requested", "allocated", "reserved", "device")]
        known = [name for name in (*order, "gpu_memory_total_bytes") if row.get(name) is not None]
        found += [_larger(row, small, large) for small, large in pairwise(known)]
    if row.get("weights_bytes") is not None and row.get("peak_allocated_bytes") is not None:
        found.append(_larger(row, "weights_bytes", "peak_allocated_bytes"))
    return found


def _larger(row: Mapping[str, Any], small: str, large: str) -> str:
    fits = row[small] <= row[large] * (1 + TOLERANCE)
    return "" if fits else f"{small} {row[small]:,.0f} exceeds {large} {row[large]:,.0f}"


def _memory_parts(row: Mapping[str, Any]) -> list[str]:
    """The parts of a peak are the peak, little of it is unexplained, and formulas agree with what is held."""
    found, peak, parts = [], row.get("peak_probed_bytes"), [row.get(f"peak_{part}_bytes") for part in MEMORY_PARTS]
    if peak and None not in parts:
        total = sum(part for part in parts if part is not None)
        if not math.isclose(total, peak, rel_tol=TOLERANCE):
            found.append(f"the parts of the memory's peak are {total:,.0f} bytes, not {peak:,.0f}")
        found += [
            f"peak_{part}_bytes is {size:,.0f}"
            for part, size in zip(MEMORY_PARTS, parts, strict=True)
            if size is not None and size < 0 and part != "unattributed"
        ]
        unexplained = row["peak_unattributed_bytes"] / peak
        if abs(unexplained) > UNEXPLAINED_RATIO:
            found.append(f"{unexplained:.1%} of the memory's peak is unattributed")
    for name in ("weights_bytes", "optimizer_state_bytes"):
        held, expected = row.get(name), row.get(f"expected_{name}")
        if held is not None and expected and not math.isclose(held, expected, rel_tol=UNEXPLAINED_RATIO):
            found.append(f"{name} is {held:,.0f} where the formula expects {expected:,.0f}")
    retries = row.get("allocator_retries_count")
    if retries:
        found.append(f"the GPU's memory ran out {retries:,.0f} times and the allocator emptied its cache")
    return found


def _energy(row: Mapping[str, Any]) -> list[str]:
    joules, watts, seconds = row.get("gpu_energy_joules"), row.get("gpu_power_mean_watts"), row.get("window_seconds")
    if joules is None or watts is None or not seconds:
        return []
    found = []
    if not math.isclose(joules, watts * seconds, rel_tol=TOLERANCE):
        found.append(f"gpu_energy_joules {joules:.4g} is not power x time {watts * seconds:.4g}")
    limit = row.get("gpu_power_limit_watts")
    if limit and joules > limit * seconds * 1.05:
        found.append(f"gpu_energy_joules {joules:.4g} exceeds the power limit x time {limit * seconds:.4g}")
    return found


def _work(row: Mapping[str, Any]) -> list[str]:
    found = []
    expected, counted = row.get("tokens_expected_count"), row.get("tokens_counted_count")
    if expected is not None and counted is not None and expected != counted:
        found.append(f"{counted} tokens were counted where {expected} were to be produced")
    rate, latency, work = (
        row.get("throughput_tokens_per_second"),
        row.get("latency_mean_seconds"),
        row.get("step_tokens_count"),
    )
    if rate and latency and work and not math.isclose(rate * latency, work, rel_tol=TOLERANCE):
        found.append(f"throughput x latency is {rate * latency:.6g}, not the {work} tokens of a step")
    return found


def _positive(row: Mapping[str, Any]) -> list[str]:
    names = ("latency_p50_seconds", "throughput_tokens_per_second", "weights_bytes")
    return [f"{name} is {row[name]}" for name in names if row.get(name) is not None and not row[name] > 0]
