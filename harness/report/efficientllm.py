"""EfficientLLM's six metrics by the paper's own definitions, each beside a column that says more.

Source: Yuan et al. 2025, EfficientLLM, arXiv 2505.13840, section 5.1, equations 1 to 9. Two names mislead and are kept
because the paper's tables carry them: "average energy" (Eq. 8) is mean power, and "peak compute" (Eq. 2) is a mean.
"""

from __future__ import annotations

import re

import pandas as pd

from harness.report.entries import BASELINE
from harness.report.frame import BOARD
from harness.report.metrics import QUALITY

_GENERATED = "Eq. 6 counts generated tokens; this workload generates none"
_TRAINED = "Eq. 4 and 5 count training; this workload trains nothing"
_BITS = ((r"4bit|int4|nf4|fp4", 4), (r"8bit|int8|float8", 8), (r"float16", 16), (r"float32", 32))


def six_metrics(entries: pd.DataFrame) -> pd.DataFrame:
    """The six metrics of measured `entries`, same index; null where the definition does not apply.

    Columns: amu_bytes and amu_source (Eq. 1), pcu_ratio (Eq. 2), al_seconds (Eq. 3), tt and st in tokens and samples
    per parameter and second (Eq. 4, 5), it in output tokens per second (Eq. 6), aec_watts (Eq. 8), mcr_ratio and
    mcr_stored_ratio (Eq. 9).
    """
    trained, output = entries["token_kind"].eq("trained"), entries["token_kind"].eq("output")
    tokens, parameters = entries["throughput_tokens_per_second"], entries["parameter_count"]
    nominal, stored = compression(entries)
    return pd.DataFrame(
        {
            "amu_bytes": entries["mean_allocated_bytes"].fillna(entries["mean_host_bytes"]),
            "amu_source": entries["mean_allocated_bytes"].notna().map({True: "GPU tensors", False: "host process"}),
            "pcu_ratio": entries["gpu_busy_ratio"],
            "al_seconds": entries["latency_mean_seconds"],
            "tt_tokens_per_parameter_per_second": (tokens / parameters).where(trained),
            "st_samples_per_parameter_per_second": (entries["throughput_samples_per_second"] / parameters).where(
                trained
            ),
            "it_tokens_per_second": tokens.where(output),
            "aec_watts": entries["gpu_power_mean_watts"],
            "gpu_energy_per_token_joules": entries["gpu_energy_per_token_joules"],
            "mcr_ratio": nominal,
            "mcr_stored_ratio": stored,
        },
        index=entries.index,
    )


def compression(entries: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Eq. 9, (size before / after) x (performance after / before), by nominal bits and by stored bytes.

    The paper's printed rates follow from nominal bits alone (4 for int4 after bf16). Quality here is a loss, so its
    inverse stands for performance: performance after / before = bits per byte before / after.
    """
    columns = ["bits", "weights_bytes", QUALITY]
    table = entries.assign(bits=entries["weights_dtype"].map(nominal_bits))
    base = table[table["technique"].eq(BASELINE) & table["ranked"].astype(bool)].drop_duplicates(BOARD, keep="last")
    both = table.merge(base[[*BOARD, *columns]], on=BOARD, how="left", suffixes=("", "_before"), validate="m:1")
    both.index = table.index
    kept = both[f"{QUALITY}_before"] / both[QUALITY]
    return both["bits_before"] / both["bits"] * kept, both["weights_bytes_before"] / both["weights_bytes"] * kept


def nominal_bits(weights_dtype: str | None) -> float:
    """Bits of the narrowest dtype in a row's `weights_dtype` (`Int8Tensor[float32]/Parameter[float32]` is 8)."""
    text = (weights_dtype or "").lower()
    return next((float(bits) for pattern, bits in _BITS if re.search(pattern, text)), float("nan"))


def why_null(column: str, entry: dict) -> str:
    """Why a metric is null in this entry."""
    kind = entry["token_kind"]
    if column.startswith(("tt_", "st_")) and kind != "trained":
        return _TRAINED
    if column.startswith("it_") and kind != "output":
        return _GENERATED
    if column.startswith("mcr"):
        return "quality or the baseline was not measured"
    return "no GPU counter in this row"
