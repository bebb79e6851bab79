"""The numbers that the leaderboard compares with the baseline, and how each is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Where a number comes from; the two never share a column.
Source = Literal["measured", "estimated"]


@dataclass(frozen=True)
class Shown:
    """One column: its heading, what it means, its unit by name, and whether less is better."""

    heading: str
    meaning: str
    lower_is_better: bool
    source: Source = "measured"


#: By column of the rows. The order is that of the leaderboard.
METRICS: dict[str, Shown] = {
    "latency_p50_seconds": Shown("Step time", "median time of a step, device synchronised", True),
    "throughput_tokens_per_second": Shown("Throughput", "tokens per second over the timed steps", False),
    "peak_allocated_bytes": Shown("Peak memory", "peak of bytes that tensors held during a step", True),
    "peak_reserved_bytes": Shown("Reserved", "peak that the GPU allocator reserved: what must fit", True),
    "weights_bytes": Shown("Weights", "bytes of parameters and buffers as stored", True),
    "kv_cache_bytes": Shown("KV cache", "bytes that the cache holds at the end of a step", True),
    "optimizer_state_bytes": Shown("Optimizer", "bytes that the optimizer holds beside the parameters", True),
    "gpu_energy_per_token_joules": Shown("Energy, measured", "GPU energy of a token by the energy counter", True),
    "energy_per_token_estimated_joules": Shown(
        "Energy, estimated",
        "estimated by a model of processor and memory power, not measured",
        True,
        "estimated",
    ),
    "quality_bits_per_byte": Shown("Quality", "held-out loss in bits per byte; lower is better", True),
}

QUALITY = "quality_bits_per_byte"
LATENCY = "latency_p50_seconds"
MEMORY = "peak_allocated_bytes"
ENERGY = "gpu_energy_per_token_joules"
ESTIMATE = "energy_per_token_estimated_joules"


def ratio_column(metric: str) -> str:
    """Name of the column with `metric` over the baseline's."""
    return f"{metric}_over_baseline_ratio"


def low_column(metric: str) -> str:
    """Name of the column with the lower bound of that ratio; null below two runs."""
    return f"{metric}_over_baseline_low_ratio"


def high_column(metric: str) -> str:
    """Name of the column with the upper bound of that ratio; null below two runs."""
    return f"{metric}_over_baseline_high_ratio"
