"""Whether a technique keeps the baseline's quality."""

from __future__ import annotations

import math

import pandas as pd

from harness.report.entries import BASELINE
from harness.report.metrics import QUALITY
from harness.report.ratios import BY_SEED
from harness.stats.pairs import holm
from harness.stats.separation import FAMILY_LEVEL, MEASURED_FROM, p_value

#: A loss of this share of the baseline's bits per byte still counts as kept.
MARGIN = 0.01
RULE = (
    "keeps quality: its held-out loss is at most 1% above the baseline's or, with two runs or more, "
    "at most one standard error of the paired difference above it"
)


def with_quality(entries: pd.DataFrame) -> pd.DataFrame:
    """Add `keeps_quality`: True, False, or None where quality or the baseline's quality was not measured."""
    return entries.assign(keeps_quality=[_keeps(entry) for entry in entries.to_dict("records")])


def _keeps(entry: dict) -> bool | None:
    change, value = entry["quality_change_bits_per_byte"], entry[QUALITY]
    if pd.isna(change) or pd.isna(value):
        return None
    error = entry["quality_change_standard_error_bits_per_byte"]
    margin = MARGIN * (value - change)
    return bool(change <= max(margin, 0.0 if pd.isna(error) else error))


def quality_gains(entries: list[dict]) -> list[dict]:
    """Those of a board's ranked entries whose loss is lower than the baseline's by more than chance.

    Student's t over the paired differences from three runs on. Below, the held-out windows' own errors stand in, as
    though the two were independent: both saw the same windows, so this is too wide rather than too narrow, but it knows
    nothing of other seeds. Holm's method over the board keeps the chance of any wrong gain at 5%.
    """
    able = [entry for entry in entries if entry["technique"] != BASELINE and _known(entry)]
    p_values = holm([p_value(list(entry[BY_SEED][QUALITY].values()), _assumed(entry)) for entry in able])
    return [
        entry
        for entry, p in zip(able, p_values, strict=True)
        if p <= FAMILY_LEVEL and entry["quality_change_bits_per_byte"] < 0
    ]


def _assumed(entry: dict) -> float:
    # Every run sees the same windows, so their error does not shrink with the number of runs.
    return entry["quality_standard_error_bits_per_byte"] * math.sqrt(2 * len(entry[BY_SEED][QUALITY]))


def _known(entry: dict) -> bool:
    change, error = entry["quality_change_bits_per_byte"], entry["quality_standard_error_bits_per_byte"]
    runs = len(entry[BY_SEED].get(QUALITY, {}))
    return not pd.isna(change) and (runs >= MEASURED_FROM or (runs > 0 and not pd.isna(error)))
