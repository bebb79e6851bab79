"""Energy by counter, RAPL and estimate: each in its own column, and null with a reason where there is no source."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.interfaces import Readings, Window, Work
from harness.meters import energy, rapl
from harness.meters.codecarbon_model import TDP_VARIABLE, cpu_power_watts, tdp_watts
from harness.meters.energy import Energy

MEASURED = [metric.name for metric in Energy.metrics if "_estimated_" not in metric.name]
ESTIMATED = [metric.name for metric in Energy.metrics if "_estimated_" in metric.name]


@pytest.fixture(autouse=True)
def known_processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A processor of 100 W, so that codecarbon need not look it up."""
    monkeypatch.setenv(TDP_VARIABLE, "100")
    tdp_watts.cache_clear()
    yield
    tdp_watts.cache_clear()


def on_gpu(gpu: Any, seconds: float, monkeypatch: pytest.MonkeyPatch, meter: Energy | None = None) -> Readings:
    """Readings of a window of `seconds` on the pretended GPU's clock, sampled every 20 ms."""

    def sleep(length: float) -> None:
        gpu.now += length

    monkeypatch.setattr(energy, "time", SimpleNamespace(perf_counter_ns=lambda: int(gpu.now * 1e9), sleep=sleep))
    meter = meter or Energy()
    busy, gpu.watts = gpu.watts, 90.0
    meter.open("cuda")
    gpu.watts = busy
    meter.start()
    start = int(gpu.now * 1e9)
    for _ in range(round(seconds / 0.02)):
        gpu.now += 0.02
        meter.sample()
    end = int(gpu.now * 1e9)
    meter.stop()
    return meter.readings(Window(Work(samples=1, output_tokens=4), [seconds / 8] * 8, [], start, end))


def on_cpu(meter: Energy | None = None, seconds: float = 3.0, ticks: int = 1000) -> Readings:
    """Readings of a window in which half of the machine's processor time was busy."""
    meter = meter or Energy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "_busy_and_total_ticks", iter([(100, 1000), (100 + ticks // 2, 1000 + ticks)]).__next__)
        meter.open("cpu")
        meter.start()
        meter.stop()
    return meter.readings(Window(Work(samples=1, output_tokens=4), [seconds], [], 0, int(seconds * 1e9)))


def test_a_window_of_many_periods_is_measured_by_the_counter(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    found = on_gpu(fake_gpu, 3.0, monkeypatch)
    assert found.facts["energy_source"] == "counter"
    joules = found.values["gpu_energy_joules"]
    assert joules == pytest.approx(1500, abs=50)
    assert found.values["gpu_power_mean_watts"] * 3.0 == pytest.approx(joules)
    assert found.values["gpu_energy_per_step_joules"] == pytest.approx(joules / 8)
    assert found.values["gpu_energy_per_token_joules"] == pytest.approx(joules / 32)
    assert found.values["gpu_energy_net_joules"] == pytest.approx(joules - 90 * 3)
    assert found.values["gpu_idle_power_watts"] == 90
    assert found.values["gpu_power_maximum_watts"] == 500
    assert found.values["gpu_counter_period_seconds"] == pytest.approx(0.1, rel=0.01)
    assert found.values["gpu_energy_uncertainty_joules"] == pytest.approx(50, rel=0.1)
    assert "coarse" in found.facts["energy_window"]


def test_a_window_of_a_hundred_periods_is_clean(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    found = on_gpu(fake_gpu, 11.0, monkeypatch)
    assert found.facts["energy_window"] == "clean"
    assert found.values["gpu_energy_joules"] == pytest.approx(5500, rel=0.01)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.5])
def test_a_short_window_is_refused(seconds: float, fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    found = on_gpu(fake_gpu, seconds, monkeypatch)
    assert found.facts["energy_source"] == "none"
    for name in ("gpu_energy_joules", "gpu_power_mean_watts", "gpu_energy_per_token_joules", "gpu_energy_net_joules"):
        assert found.values.get(name) is None
        assert found.reasons[name]


def test_a_gpu_without_a_counter_gives_null_and_a_reason(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    fake_gpu.has_counter = False
    found = on_gpu(fake_gpu, 3.0, monkeypatch)
    assert found.facts["energy_source"] == "none"
    for name in MEASURED:
        if name.startswith("gpu_energy") or name == "gpu_power_mean_watts":
            assert found.values.get(name) is None
            assert found.reasons[name]


def test_a_gpu_without_instant_power_gives_null_power_and_still_the_counters_energy(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
):
    fake_gpu.has_instant_power = False
    found = on_gpu(fake_gpu, 3.0, monkeypatch)
    assert found.values["gpu_energy_joules"] == pytest.approx(1500, abs=50)
    for name in ("gpu_power_maximum_watts", "gpu_idle_power_watts", "gpu_energy_net_joules"):
        assert found.values.get(name) is None
        assert found.reasons.get(name), name


def test_a_counter_that_stands_still_is_never_zero_joules(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    fake_gpu.period = 1e6
    found = on_gpu(fake_gpu, 5.0, monkeypatch)
    assert found.values.get("gpu_energy_joules") is None
    assert "did not move" in found.reasons["gpu_energy_joules"]


def test_without_a_gpu_every_measured_column_is_null_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(rapl, "RAPL", tmp_path / "none")
    found = on_cpu()
    for name in MEASURED:
        assert found.values.get(name) is None, name
        assert found.reasons[name]
    assert found.facts["energy_source"] == "none"


def test_estimates_stand_in_their_own_columns_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(rapl, "RAPL", tmp_path / "none")
    found = on_cpu(seconds=10)
    assert set(found.values) - set(ESTIMATED) == set()
    # 100 W x (0.1 + 0.9 x 0.5^3) over 10 s
    assert found.values["cpu_energy_estimated_joules"] == pytest.approx(100 * (0.1 + 0.9 * 0.125) * 10)
    total = found.values["cpu_energy_estimated_joules"] + found.values["memory_energy_estimated_joules"]
    assert found.values["energy_per_token_estimated_joules"] == pytest.approx(total / 4)


@pytest.mark.parametrize(("load", "share"), [(0.0, 0.1), (0.5, 0.2125), (1.0, 1.0)])
def test_the_load_model_is_codecarbons(load: float, share: float):
    assert cpu_power_watts(load) == pytest.approx(100 * share)


def test_carbon_is_null_until_a_grid_is_named():
    found = on_cpu()
    assert found.values.get("carbon_estimated_grams") is None
    assert "country_iso_code" in found.reasons["carbon_estimated_grams"]


def test_carbon_is_energy_times_the_grids_intensity():
    found = on_cpu(Energy("FRA"))
    joules = found.values["cpu_energy_estimated_joules"] + found.values["memory_energy_estimated_joules"]
    assert 10 < found.facts["grid_grams_per_kilowatt_hour"] < 150
    expected = joules / 3.6e6 * found.facts["grid_grams_per_kilowatt_hour"]
    assert found.values["carbon_estimated_grams"] == pytest.approx(expected)
    assert found.facts["carbon_region"] == "FRA"


def test_carbon_of_a_gpu_whose_energy_is_unknown_is_unknown(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    found = on_gpu(fake_gpu, 0.5, monkeypatch, Energy("FRA"))
    assert found.values.get("gpu_energy_joules") is None
    assert found.values.get("carbon_estimated_grams") is None
    assert found.reasons["carbon_estimated_grams"]


def test_a_window_too_short_for_the_kernels_accounting_has_no_estimate_and_says_so():
    found = on_cpu(Energy("FRA"), ticks=0)
    for name in ("cpu_energy_estimated_joules", "energy_per_token_estimated_joules", "carbon_estimated_grams"):
        assert found.values.get(name) is None, name
        assert found.reasons.get(name), name


def test_an_unknown_country_is_named():
    from harness.errors import UserError

    with pytest.raises(UserError, match="'XYZ'"):
        on_cpu(Energy("XYZ"))


class Package:
    """The kernel's RAPL files."""

    def __init__(self, folder: Path, highest: int) -> None:
        self.folder, self.highest = folder, highest
        (folder / "max_energy_range_uj").write_text(f"{highest}\n")

    def set(self, microjoules: int) -> None:
        (self.folder / "energy_uj").write_text(f"{microjoules % self.highest}\n")


@pytest.mark.parametrize("start", [0, 5_000_000, 99_000_000], ids=["at zero", "in between", "just before it wraps"])
def test_rapl_is_a_difference_that_survives_a_wrap(start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rapl, "RAPL", tmp_path)
    package = Package(tmp_path, 100_000_000)
    package.set(start)
    meter = Energy()
    meter.open("cpu")
    meter.start()
    package.set(start + 42_000_000)
    meter.stop()
    window = Window(Work(samples=1, output_tokens=1), [2.0], [], 0, 2 * 10**9)
    assert meter.readings(window).values["cpu_energy_joules"] == pytest.approx(42)


def test_rapl_over_a_short_window_is_null_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rapl, "RAPL", tmp_path)
    Package(tmp_path, 100_000_000).set(1)
    found = on_cpu(seconds=0.01)
    assert found.values.get("cpu_energy_joules") is None
    assert "RAPL" in found.reasons["cpu_energy_joules"]


@pytest.mark.parametrize("content", ["", "not a number"])
def test_a_rapl_file_that_says_nothing_is_null(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rapl, "RAPL", tmp_path)
    (tmp_path / "energy_uj").write_text(content)
    assert on_cpu().values.get("cpu_energy_joules") is None
