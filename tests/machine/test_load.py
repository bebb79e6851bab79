"""Shares of the processor from two snapshots of the kernel's counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.machine import load as machine_load
from harness.machine.load import Snapshot, between

NAMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
TICKS = st.fixed_dictionaries({name: st.integers(0, 10_000) for name in NAMES})


@given(TICKS, TICKS, st.floats(0, 100), st.floats(0.01, 100))
def test_shares_lie_between_none_and_all(start: dict[str, int], spent: dict[str, int], own: float, wall: float):
    before = Snapshot(1.0, 1.0, start)
    found = between(before, Snapshot(1.0 + own, 1.0 + wall, {name: start[name] + spent[name] for name in NAMES}))
    if not any(spent.values()):
        assert (found.machine_busy_ratio, found.others_busy_ratio, found.steal_ratio) == (None, None, None)
        assert found.quiet == "quiet"
        return
    assert found.machine_busy_ratio is not None
    assert found.others_busy_ratio is not None
    assert found.steal_ratio is not None
    assert 0 <= found.others_busy_ratio <= found.machine_busy_ratio <= 1
    assert 0 <= found.steal_ratio <= found.machine_busy_ratio
    disturbed = max(found.others_busy_ratio, found.steal_ratio) > machine_load.QUIET_RATIO
    assert (found.quiet == "quiet") != disturbed


def test_what_this_process_takes_is_not_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before = Snapshot(0.0, 0.0, dict.fromkeys(NAMES, 0))
    after = {**before.ticks, "user": 150, "idle": 50}  # 2 s of two cores at 100 ticks a second, 1.5 s of them busy
    assert between(before, Snapshot(1.5, 1.0, after)).quiet == "quiet"
    assert between(before, Snapshot(0.5, 1.0, after)).others_busy_ratio == pytest.approx(0.5)


def test_a_kernel_without_accounting_gives_nothing():
    found = between(Snapshot(0.0, 0.0, {}), Snapshot(1.0, 1.0, {}))
    assert found.machine_busy_ratio is None
    assert found.cpu_busy_ratio > 0
