"""Step times, token times and throughput, from raw samples only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness.interfaces import Meter, Metric, Readings, Window
from harness.stats.quantiles import quantile, quantile_interval

#: A percentile is given only from this many samples on; below it the estimate is one or two extreme samples.
SAMPLES_FOR_P90 = 100
SAMPLES_FOR_P99 = 1000
#: (name, fraction, samples needed)
PERCENTILES = (("p90", 0.9, SAMPLES_FOR_P90), ("p99", 0.99, SAMPLES_FOR_P99))
_BOUND = "of the 95% interval of that percentile by order statistics, as if steps were independent of each other"


@dataclass(frozen=True)
class Latency(Meter):
    """Host time of a step, the device synchronised on both sides, and what follows from it."""

    metrics: ClassVar = (
        Metric("latency_p50_seconds", "median time of a step by the host clock, device synchronised", "lower"),
        Metric("latency_mean_seconds", "mean time of a step", "lower"),
        Metric("latency_p90_seconds", "90th percentile of a step's time; null below 100 samples", "lower"),
        Metric("latency_p90_low_seconds", f"lower end {_BOUND}"),
        Metric("latency_p90_high_seconds", f"upper end {_BOUND}"),
        Metric("latency_p99_seconds", "99th percentile of a step's time; null below 1000 samples", "lower"),
        Metric("latency_p99_low_seconds", f"lower end {_BOUND}"),
        Metric("latency_p99_high_seconds", f"upper end {_BOUND}"),
        Metric("latency_spread_ratio", "interquartile range of the step times over their median", "lower"),
        Metric(
            "device_latency_p50_seconds", "median time of a step between device events; null without a GPU", "lower"
        ),
        Metric("ttft_p50_seconds", "time to first token: median over requests", "lower"),
        Metric("tpot_p50_seconds", "time per output token after the first: median over requests", "lower"),
        Metric("itl_p50_seconds", "inter-token latency: median over all gaps", "lower"),
        Metric("throughput_tokens_per_second", "tokens of `token_kind` over the timed steps", "higher"),
        Metric("throughput_samples_per_second", "sequences over the timed steps", "higher"),
    )

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        events = "CUDA events, beside the host clock" if device == "cuda" else "unavailable: no GPU"
        return {"host time": "perf_counter, device synchronised", "device time": events}

    def readings(self, window: Window) -> Readings:
        """Everything from the raw samples; percentiles only where enough samples bear them."""
        seconds, total = window.step_seconds, sum(window.step_seconds)
        median = statistics.median(seconds)
        values: dict[str, float | None] = {
            "latency_p50_seconds": median,
            "latency_mean_seconds": statistics.fmean(seconds),
            "latency_spread_ratio": (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / median,
            "throughput_tokens_per_second": window.work.tokens * window.steps / total,
            "throughput_samples_per_second": window.work.samples * window.steps / total,
        }
        reasons: dict[str, str] = {}
        _add_percentiles(seconds, values, reasons)
        if window.device_step_seconds:
            values["device_latency_p50_seconds"] = statistics.median(window.device_step_seconds)
        else:
            reasons["device_latency_p50_seconds"] = "no device clock on a CPU"
        values |= token_times(window)
        for name in ("ttft_p50_seconds", "tpot_p50_seconds", "itl_p50_seconds"):
            if name not in values:
                reasons[name] = "this workload does not deliver tokens one by one"
        return Readings(values, reasons)


def _add_percentiles(seconds: list[float], values: dict[str, float | None], reasons: dict[str, str]) -> None:
    for name, fraction, needed in PERCENTILES:
        columns = [f"latency_{name}{end}_seconds" for end in ("", "_low", "_high")]
        interval = quantile_interval(seconds, fraction) if len(seconds) >= needed else None
        if interval is None:
            reasons |= dict.fromkeys(columns, f"{len(seconds)} samples; {needed} are needed")
        else:
            values |= dict(zip(columns, (quantile(seconds, fraction), *interval), strict=True))


def token_times(window: Window) -> dict[str, float | None]:
    """TTFT, TPOT and ITL as vLLM's serving benchmark defines them; of a decode step the step itself is TPOT and ITL.

    TPOT of a request is (end to end - TTFT) / (tokens - 1), whatever number of chunks its tokens came in; ITL is every
    gap between chunks, pooled.
    """
    gaps, first = window.samples.get("token_gap_seconds"), window.samples.get("ttft_seconds")
    if gaps and first:
        tokens = window.work.output_tokens // window.work.samples
        whole = window.samples["request_seconds"]
        found: dict[str, float | None] = {
            "ttft_p50_seconds": statistics.median(first),
            "itl_p50_seconds": statistics.median(gaps),
        }
        if tokens > 1:
            tpot = [(end - begin) / (tokens - 1) for end, begin in zip(whole, first, strict=True)]
            found["tpot_p50_seconds"] = statistics.median(tpot)
        return found
    if window.work.output_tokens:
        median = statistics.median(window.step_seconds)
        return {"tpot_p50_seconds": median, "itl_p50_seconds": median}
    return {}
