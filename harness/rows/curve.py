"""What a row's learning curve says: seconds at each evaluation, and what a target took. From raw samples alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

TOKENS, QUALITY, SECONDS = "curve_tokens_count", "curve_quality_bits_per_byte", "curve_seconds"
ENERGY = "gpu_energy_to_target_joules"
TO_TARGET = ("seconds_to_target_seconds", "tokens_to_target_count", "flops_to_target_flops", ENERGY)


def curve_seconds(row: Mapping[str, Any]) -> list[float]:
    """Time of all timed steps, warm-up included, up to each evaluation."""
    seconds = [0.0, *accumulate([*row["warmup_step_seconds"], *row["step_seconds"]])]
    return [seconds[round(tokens / row["step_tokens_count"])] for tokens in row[TOKENS]]


def to_target(row: Mapping[str, Any], target: float) -> dict[str, float]:
    """What the first evaluation at or below `target` had taken; empty where none was.

    The energy is the GPU's mean power over the window, by its counter, times the seconds of the steps: evaluations lie
    in the window and not in the steps, and the warm-up's steps lie before the window.
    """
    place = next((i for i, quality in enumerate(row[QUALITY]) if quality <= target), None)
    if place is None:
        return {}
    seconds, tokens = curve_seconds(row)[place], row[TOKENS][place]
    found = {TO_TARGET[0]: seconds, TO_TARGET[1]: tokens}
    if row.get("step_model_flops") is not None:
        found[TO_TARGET[2]] = row["step_model_flops"] * tokens / row["step_tokens_count"]
    if row.get("gpu_energy_joules") is not None:
        found[ENERGY] = row["gpu_energy_joules"] / row["window_seconds"] * seconds
    return found


def curve_columns(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Columns, reasons and facts of a row before it is stored; nothing where it has no learning curve."""
    if not row.get(TOKENS):
        return {}, {}, {}
    target = row["facts"].get("target_bits_per_byte")
    found: dict[str, float] = {} if target is None else to_target(row, target)
    if target is None:
        why = "no target was set (workload.target_bits_per_byte)"
    elif not found:
        why = f"the target was not reached within the budget; the best was {min(row[QUALITY], default=math.nan):.4f}"
    else:
        why = "the model's operations have no closed form"
    reasons = {name: why for name in TO_TARGET if name not in found}
    if found and ENERGY not in found:
        reasons[ENERGY] = row["reasons"].get("gpu_energy_joules", "no GPU energy was measured")
    facts = {} if target is None else {"target_reached": bool(found)}
    return {SECONDS: curve_seconds(row), **dict.fromkeys(TO_TARGET), **found}, reasons, facts
