"""Identities that must hold in every row: a valid row keeps all, and each broken one is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.rows.checks import broken_identities

VALID: dict[str, Any] = {
    "latency_p50_seconds": 0.5,
    "latency_mean_seconds": 0.5,
    "latency_spread_ratio": 3.0,
    "throughput_tokens_per_second": 64.0,
    "step_tokens_count": 32,
    "tokens_expected_count": 320,
    "tokens_counted_count": 320,
    "window_seconds": 5.0,
    "gpu_energy_joules": 2000.0,
    "gpu_power_mean_watts": 400.0,
    "gpu_power_limit_watts": 700.0,
    "weights_bytes": 1e9,
    "peak_requested_bytes": 1.99e9,
    "peak_allocated_bytes": 2e9,
    "peak_reserved_bytes": 3e9,
    "peak_device_bytes": 4e9,
    "gpu_memory_total_bytes": 80e9,
    **{f"peak_{phase}_{kind}_bytes": 1.5e9 for phase in ("load", "warmup") for kind in ("allocated", "reserved")},
    "peak_load_device_bytes": 2e9,
    "peak_warmup_device_bytes": 2e9,
    "peak_probed_bytes": 2.1e9,
    "peak_weights_bytes": 1e9,
    "peak_gradient_bytes": 0.5e9,
    "peak_optimizer_state_bytes": 0.0,
    "peak_kv_cache_bytes": 0.1e9,
    "peak_activation_bytes": 0.3e9,
    "peak_workspace_bytes": 0.1e9,
    "peak_other_bytes": 0.08e9,
    "peak_unattributed_bytes": 0.02e9,
    "expected_weights_bytes": 1.01e9,
    "optimizer_state_bytes": 8.001e8,
    "expected_optimizer_state_bytes": 8e8,
    "allocator_retries_count": 0,
    "mfu_ratio": 0.4,
    "mbu_ratio": 0.3,
    "gpu_busy_ratio": 1.0,
    "sm_active_ratio": 0.5,
    "machine_busy_ratio": 0.9,
    "steal_ratio": 0.0,
    "cpu_busy_ratio": 1.02,
}
#: One field of a valid row changed, and what the complaint must name.
BROKEN: list[tuple[str, Any, str]] = [
    ("mfu_ratio", 1.2, "mfu_ratio"),
    ("mfu_ratio", 0.0, "mfu_ratio"),
    ("mfu_ratio", float("nan"), "mfu_ratio"),
    ("mbu_ratio", 1.2, "mbu_ratio"),
    ("mbu_ratio", -0.1, "mbu_ratio"),
    ("sm_active_ratio", 1.5, "sm_active_ratio"),
    ("gpu_busy_ratio", -0.5, "gpu_busy_ratio"),
    ("steal_ratio", 2.0, "steal_ratio"),
    ("peak_allocated_bytes", 3.5e9, "peak_allocated_bytes"),
    ("peak_reserved_bytes", 4.5e9, "peak_reserved_bytes"),
    ("peak_device_bytes", 2.5e9, "peak_device_bytes"),
    ("peak_device_bytes", 90e9, "peak_device_bytes"),
    ("peak_requested_bytes", 2.1e9, "peak_requested_bytes"),
    ("peak_load_allocated_bytes", 1.6e9, "peak_load_allocated_bytes"),
    ("peak_warmup_reserved_bytes", 2.6e9, "peak_warmup_reserved_bytes"),
    ("peak_warmup_device_bytes", 81e9, "peak_warmup_device_bytes"),
    ("peak_activation_bytes", 0.4e9, "parts"),
    ("peak_probed_bytes", 2.2e9, "parts"),
    ("peak_other_bytes", -0.08e9, "peak_other_bytes"),
    ("expected_weights_bytes", 1.03e9, "formula"),
    ("optimizer_state_bytes", 6e8, "formula"),
    ("allocator_retries_count", 1, "ran out"),
    ("weights_bytes", 2.5e9, "weights_bytes"),
    ("weights_bytes", 0, "weights_bytes"),
    ("gpu_energy_joules", 2001.0, "gpu_energy_joules"),
    ("gpu_power_mean_watts", 401.0, "gpu_energy_joules"),
    ("window_seconds", 5.1, "gpu_energy_joules"),
    ("gpu_power_limit_watts", 300.0, "limit"),
    ("tokens_counted_count", 319, "319"),
    ("tokens_expected_count", 321, "321"),
    ("throughput_tokens_per_second", 65.0, "throughput"),
    ("throughput_tokens_per_second", 0.0, "throughput_tokens_per_second"),
    ("latency_mean_seconds", 0.51, "throughput"),
    ("latency_p50_seconds", 0.0, "latency_p50_seconds"),
    ("latency_p50_seconds", -1.0, "latency_p50_seconds"),
    ("latency_p50_seconds", float("nan"), "latency_p50_seconds"),
    ("step_tokens_count", 33, "throughput"),
]


def test_a_valid_row_breaks_nothing():
    assert broken_identities(VALID) == []


@pytest.mark.parametrize(("field", "value", "named"), BROKEN, ids=[f"{field}={value}" for field, value, _ in BROKEN])
def test_a_violation_is_named(field: str, value: Any, named: str):
    found = broken_identities({**VALID, field: value})
    assert found, f"{field} = {value} went unseen"
    assert any(named in line for line in found), found


@given(st.floats(-0.2, 0.2))
def test_a_peak_of_which_too_much_is_unexplained_is_named(ratio: float):
    peak = VALID["peak_probed_bytes"] - VALID["peak_unattributed_bytes"]
    unexplained = ratio * peak
    row = {**VALID, "peak_probed_bytes": peak + unexplained, "peak_unattributed_bytes": unexplained}
    found = broken_identities(row)
    assert bool(found) == (abs(unexplained) > 0.02 * (peak + unexplained)), found
    assert all("unattributed" in line for line in found)


@given(st.sets(st.sampled_from(sorted(VALID))))
def test_a_null_breaks_nothing(names: set[str]):
    assert broken_identities({**VALID, **dict.fromkeys(names)}) == []
    assert broken_identities({name: value for name, value in VALID.items() if name not in names}) == []


@given(st.floats(1, 700), st.floats(0.1, 1000), st.floats(1e-4, 10), st.integers(1, 10**6))
def test_rounding_is_not_a_violation(watts: float, seconds: float, latency: float, tokens: int):
    row = {
        "gpu_energy_joules": watts * seconds,
        "gpu_power_mean_watts": watts * seconds / seconds,
        "window_seconds": seconds,
        "latency_mean_seconds": latency,
        "throughput_tokens_per_second": tokens / latency,
        "step_tokens_count": tokens,
    }
    assert broken_identities(row) == []
