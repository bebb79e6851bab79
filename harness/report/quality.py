"""Whether a technique keeps the baseline's quality."""

from __future__ import annotations

import pandas as pd

from harness.report.metrics import QUALITY

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


def gains_quality(entry: dict) -> bool:
    """Whether the loss is lower than the baseline's by more than twice the standard error of the difference.

    Below two runs the held-out windows' own errors stand in, as though the two were independent: both saw the same
    windows, so this is too wide rather than too narrow, but it knows nothing of other seeds.
    """
    change, error = entry["quality_change_bits_per_byte"], entry["quality_change_standard_error_bits_per_byte"]
    if pd.isna(error):
        error = entry["quality_standard_error_bits_per_byte"] * 2**0.5
    return bool(not pd.isna(change) and not pd.isna(error) and change < -2 * error)
