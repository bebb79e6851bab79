"""Energy by counter, RAPL and estimate: each in its own column, and null with a reason where there is no source."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.interfaces import Readings, Session, Window, Work
from harness.meters import carbon, energy, gpu_energy, rapl
from harness.meters.codecarbon_model import TDP_VARIABLE, cpu_power_watts, tdp_watts
from harness.meters.energy import Energy
from harness.rows.checks import broken_identities

INPUTS = ("grid_intensity_grams_per_kilowatt_hour", "embodied_grams")
MEASURED = [m.name for m in Energy.metrics if "_estimated_" not in m.name and m.name not in INPUTS]
ESTIMATED = [metric.name for metric in Energy.metrics if "_estimated_" in metric.name]


@pytest.fixture(autouse=True)
def known_processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A processor of 100 W, so that codecarbon need not look it up."""
    monkeypatch.setenv(TDP_VARIABLE, "100")
    tdp_watts.cache_clear()
    yield
    tdp_watts.cache_clear()


@pytest.fixture
def fake_gpu(fake_gpu: Any) -> Any:
    """The pretended GPU with power fields that are refreshed with its counter, and stamped then."""
    fake_gpu.NVML_FI_DEV_POWER_AVERAGE = 185
    fake_gpu.power_limit = 700.0
    fake_gpu.instant = lambda now: fake_gpu.watts

    def fields(handle: int, wanted: list[tuple[int, int]]) -> list[Any]:
        assert all(scope == 0 for _, scope in wanted), "power of the GPU, not of the module"
        refresh = fake_gpu.now // fake_gpu.period
        watts = fake_gpu.instant(refresh * fake_gpu.period)
        value = SimpleNamespace(uiVal=int(watts * 1e3) if fake_gpu.has_instant_power else 2**31)
        code = 0 if fake_gpu.has_instant_power else 3
        return [SimpleNamespace(nvmlReturn=code, value=value, timestamp=int(refresh * 1e5)) for _ in wanted]

    fake_gpu.nvmlDeviceGetFieldValues = fields
    fake_gpu.nvmlDeviceGetEnforcedPowerLimit = lambda handle: int(fake_gpu.power_limit * 1e3)
    return fake_gpu


def on_gpu(
    gpu: Any,
    seconds: float,
    monkeypatch: pytest.MonkeyPatch,
    meter: Energy | None = None,
    idle_after: Callable[[float], float] | None = None,
    work: Work = Work(samples=1, output_tokens=4),  # noqa: B008
) -> Readings:
    """Readings of a window of `seconds` on the pretended GPU's clock, sampled every 20 ms.

    It idles at 90 W before, and at `idle_after(seconds since)` watts after.
    """

    def sleep(length: float) -> None:
        gpu.now += length

    monkeypatch.setattr(gpu_energy, "time", SimpleNamespace(perf_counter_ns=lambda: int(gpu.now * 1e9), sleep=sleep))
    meter = meter or Energy()
    busy, gpu.watts = gpu.watts, 90.0
    meter.open("cuda")
    gpu.watts = busy
    meter.start()
    start = int(gpu.now * 1e9)
    for _ in range(round(seconds / 0.02)):
        gpu.now += 0.02
        meter.sample()
    end = gpu.now
    meter.stop()
    if idle_after is not None:
        since = gpu.now
        gpu.instant = lambda now: idle_after(now - since)
        meter.probe(Session())
    return meter.readings(Window(work, [seconds / 8] * 8, [], start, int(end * 1e9)))


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
    # Every edge lies in a period of 50 J, and a counter that only moved by 50 J may count in no smaller unit.
    assert abs(joules - 1500) <= found.values["gpu_energy_uncertainty_joules"] <= 4 * 50
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
        if (name.startswith("gpu_energy_") and "integrated" not in name) or name == "gpu_power_mean_watts":
            assert found.values.get(name) is None
            assert found.reasons[name]


def test_what_is_available_is_asked_of_the_gpu_and_not_assumed(fake_gpu: Any):
    assert Energy().availability("cuda")["GPU energy"] == "NVML energy counter"
    fake_gpu.has_counter = False
    assert "Not Supported" in Energy().availability("cuda")["GPU energy"]
    assert "no GPU" in Energy().availability("cpu")["GPU energy"]


def test_a_gpu_without_instant_power_gives_null_power_and_still_the_counters_energy(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
):
    fake_gpu.has_instant_power = False
    found = on_gpu(fake_gpu, 3.0, monkeypatch)
    assert found.values["gpu_energy_joules"] == pytest.approx(1500, abs=50)
    for name in (
        "gpu_power_maximum_watts",
        "gpu_idle_power_watts",
        "gpu_energy_net_joules",
        "gpu_energy_integrated_joules",
        "gpu_energy_integrated_over_counter_ratio",
    ):
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
    assert {name for name, value in found.values.items() if value is not None} <= set(ESTIMATED)
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
    found = on_cpu(Energy(country_iso_code="FRA"))
    joules = found.values["cpu_energy_estimated_joules"] + found.values["memory_energy_estimated_joules"]
    intensity = found.values["grid_intensity_grams_per_kilowatt_hour"]
    assert 10 < intensity < 150
    assert found.values["sci_energy_estimated_joules"] == pytest.approx(joules)
    assert found.values["carbon_estimated_grams"] == pytest.approx(joules / 3.6e6 * intensity)
    assert found.facts["carbon_region"] == "FRA"
    assert "codecarbon" in found.facts["grid_intensity_source"]
    assert found.facts["pue"] == "not given: taken as 1"


def test_carbon_of_a_gpu_whose_energy_is_unknown_is_unknown(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    found = on_gpu(fake_gpu, 0.5, monkeypatch, Energy(country_iso_code="FRA"))
    assert found.values.get("gpu_energy_joules") is None
    assert found.values.get("carbon_estimated_grams") is None
    assert found.reasons["carbon_estimated_grams"]


def test_a_window_too_short_for_the_kernels_accounting_has_no_estimate_and_says_so():
    found = on_cpu(Energy(country_iso_code="FRA"), ticks=0)
    for name in ("cpu_energy_estimated_joules", "energy_per_token_estimated_joules", "carbon_estimated_grams"):
        assert found.values.get(name) is None, name
        assert found.reasons.get(name), name


def test_an_unknown_country_is_named():
    from harness.errors import UserError

    with pytest.raises(UserError, match="'XYZ'"):
        Energy(country_iso_code="XYZ")


@settings(max_examples=30)
@given(
    st.one_of(st.none(), st.floats(1, 3)), st.floats(0, 1e7), st.floats(1e6, 1e9), st.integers(0, 9), st.integers(0, 9)
)
def test_the_sci_is_its_parts_put_together(
    pue: float | None, embodied: float, lifetime: float, tokens: int, samples: int
):
    joules, seconds = 1234.5, 2.5
    factors = carbon.Factors(300.0, pue, embodied, lifetime)
    window = Window(Work(samples=samples, output_tokens=tokens), [seconds / 5] * 5, [], 0, int(seconds * 1e9))
    values, reasons = carbon.sci(factors, window, (joules, ""), (2 * joules, ""))
    e, i, m = values["sci_energy_joules"], values["grid_intensity_grams_per_kilowatt_hour"], values["embodied_grams"]
    assert (e, i) == (joules, 300.0)
    assert m == pytest.approx(embodied * seconds / lifetime)
    for unit, count in (("token", tokens * 5), ("sample", samples * 5)):
        for name, energy_joules in (("sci", e), ("sci_estimated", values["sci_energy_estimated_joules"])):
            found = values[f"{name}_grams_per_{unit}"]
            if count:
                assert found * count == pytest.approx(energy_joules / 3.6e6 * (pue or 1) * i + m)
            else:
                assert found is None
                assert unit in reasons[f"{name}_grams_per_{unit}"]


def test_an_sci_without_its_embodied_part_or_its_grid_is_null_with_a_reason():
    names = [metric.name for metric in carbon.METRICS if "_grams_per_" in metric.name and "sci_" in metric.name]
    for meter, word in ((Energy(country_iso_code="FRA"), "embodied"), (Energy(), "grid")):
        found = on_cpu(meter)
        for name in names:
            assert found.values[name] is None
            assert found.reasons[name]
        assert word in found.reasons["sci_estimated_grams_per_token"]


def test_a_measured_sci_holds_measured_energy_alone(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rapl, "RAPL", Path("/nowhere"))
    meter = Energy(country_iso_code="FRA", pue=1.2, embodied_total_grams=3e5, lifetime_seconds=1.5e8)
    found = on_gpu(fake_gpu, 3.0, monkeypatch, meter)
    values = found.values
    assert values["sci_energy_joules"] == values["gpu_energy_joules"]
    assert found.facts["sci_boundary"] == "GPU"
    assert found.facts["pue"] == 1.2
    assert values["embodied_grams"] == pytest.approx(3e5 * 3 / 1.5e8, rel=0.01)
    grams = values["gpu_energy_joules"] / 3.6e6 * 1.2 * values["grid_intensity_grams_per_kilowatt_hour"]
    assert values["sci_grams_per_token"] == pytest.approx((grams + values["embodied_grams"]) / 32)


def test_the_processors_measured_energy_joins_the_gpus_and_the_boundary_says_so(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rapl, "microjoules", iter([1_000_000, 43_000_000]).__next__)
    monkeypatch.setattr(Path, "read_text", lambda path: "100000000")
    values = (found := on_gpu(fake_gpu, 3.0, monkeypatch)).values
    assert values["cpu_energy_joules"] == 42
    assert values["sci_energy_joules"] == pytest.approx(values["gpu_energy_joules"] + 42)
    assert found.facts["sci_boundary"] == "GPU + processor package"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"idle_after_seconds": -1}, "idle_after_seconds"),
        ({"pue": 0.9}, "pue"),
        ({"embodied_total_grams": 5}, "lifetime_seconds"),
        ({"lifetime_seconds": 5}, "embodied_total_grams"),
        ({"embodied_total_grams": -5, "lifetime_seconds": 5}, "embodied_total_grams"),
        ({"embodied_total_grams": 5, "lifetime_seconds": 0}, "lifetime_seconds"),
        ({"country_iso_code": "XYZ"}, "'XYZ'"),
    ],
)
def test_bad_options_are_named_before_anything_is_measured(options: dict[str, Any], word: str):
    from harness.errors import UserError
    from harness.plan.building import build

    with pytest.raises(UserError, match=word):
        build(Energy, options, "meters 'energy'")


def test_a_step_without_tokens_has_no_energy_per_token(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    found = on_gpu(fake_gpu, 3.0, monkeypatch, work=Work(samples=3))
    assert found.values["gpu_energy_joules"] is not None
    for name in ("gpu_energy_per_token_joules", "energy_per_token_estimated_joules"):
        assert found.values.get(name) is None
        assert "no tokens" in found.reasons[name]


def test_idle_power_after_the_window_is_that_of_the_refreshes_that_have_settled(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
):
    found = on_gpu(fake_gpu, 3.0, monkeypatch, idle_after=lambda since: 300 if since < 0.15 else 92 + 0.1 * since)
    assert found.values["gpu_idle_power_after_watts"] == pytest.approx(92, abs=0.1)
    assert found.values["idle_power_moved_ratio"] == pytest.approx(2 / 90, abs=0.002)
    assert found.facts["idle_power"] == "steady"
    assert found.values["gpu_energy_net_joules"] == pytest.approx(found.values["gpu_energy_joules"] - 90 * 3)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(60, 130))
def test_idle_power_that_moved_by_more_than_a_twentieth_is_said(fake_gpu: Any, watts: float):
    fake_gpu.watts = 500.0
    fake_gpu.instant = lambda now: fake_gpu.watts
    with pytest.MonkeyPatch.context() as patch:
        found = on_gpu(fake_gpu, 3.0, patch, idle_after=lambda since: watts)
    moved = found.values["idle_power_moved_ratio"]
    assert moved == pytest.approx(watts / 90 - 1, abs=1e-4)
    assert ("idle moved" in found.facts["idle_power"]) == (abs(moved) > 0.05)


def test_idle_power_that_does_not_settle_in_time_is_null_and_the_wait_is_bounded(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
):
    meter = Energy(idle_after_seconds=0.7)
    times: list[float] = []

    def falling(since: float) -> float:
        times.append(since)
        return 400 * 0.5**since

    found = on_gpu(fake_gpu, 3.0, monkeypatch, meter, idle_after=falling)
    assert 0.3 < max(times) < 0.7 + 0.2
    for name in ("gpu_idle_power_after_watts", "idle_power_moved_ratio"):
        assert found.values.get(name) is None
        assert "not settled within 0.7 s" in found.reasons[name]
    assert "idle_power" not in found.facts


def test_a_reading_that_was_not_refreshed_does_not_settle_anything(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    fake_gpu.period = 1e6
    found = on_gpu(fake_gpu, 3.0, monkeypatch, idle_after=lambda since: 92)
    assert found.values.get("gpu_idle_power_after_watts") is None


def test_idle_power_that_fell_and_sources_that_differ_break_no_identity():
    row = {"idle_power_moved_ratio": -0.3, "gpu_energy_integrated_over_counter_ratio": 2.4}
    assert broken_identities(row) == []


def test_reading_idle_power_again_can_be_left_out(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    found = on_gpu(fake_gpu, 3.0, monkeypatch, Energy(idle_after_seconds=0), idle_after=lambda since: 1 / 0)
    assert found.values.get("gpu_idle_power_after_watts") is None
    assert "idle_after_seconds" in found.reasons["gpu_idle_power_after_watts"]


def test_the_trace_holds_each_refresh_once_and_its_integral_stands_beside_the_counter(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
):
    found = on_gpu(fake_gpu, 3.0, monkeypatch)
    seconds = found.samples["gpu_power_at_seconds"]
    assert len(seconds) == len(found.samples["gpu_power_watts"]) == pytest.approx(30, abs=1)
    assert 0 <= seconds[0] < 0.15
    assert min(after - before for before, after in pairwise(seconds)) > 0.05
    assert found.values["gpu_energy_integrated_joules"] == pytest.approx(1500, rel=0.001)
    ratio = found.values["gpu_energy_integrated_over_counter_ratio"]
    assert ratio == pytest.approx(1500 / found.values["gpu_energy_joules"], rel=0.001)


def test_the_integral_needs_no_counter(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    fake_gpu.has_counter = False
    found = on_gpu(fake_gpu, 3.0, monkeypatch)
    assert found.values["gpu_energy_integrated_joules"] == pytest.approx(1500, rel=0.001)
    assert found.values.get("gpu_energy_integrated_over_counter_ratio") is None
    assert "no energy counter" in found.reasons["gpu_energy_integrated_over_counter_ratio"]


def test_a_counter_that_fails_in_the_window_has_no_energy_although_it_moved(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
):
    read, begun = fake_gpu.nvmlDeviceGetTotalEnergyConsumption, fake_gpu.now

    def lost(handle: int) -> int:
        if fake_gpu.now > begun + 4:
            raise fake_gpu.NVMLError("GPU is lost")
        return read(handle)

    fake_gpu.nvmlDeviceGetTotalEnergyConsumption = lost
    found = on_gpu(fake_gpu, 5.0, monkeypatch)
    assert found.values.get("gpu_energy_joules") is None
    assert "GPU is lost" in found.reasons["gpu_energy_joules"]
    assert found.facts["energy_source"] == "none"


@pytest.mark.parametrize("fault", ["no counter", "no power", "nothing wrong", "stuck", "short"])
def test_every_gpu_column_is_a_number_or_has_a_reason(fault: str, fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    fake_gpu.has_counter = fault != "no counter"
    fake_gpu.has_instant_power = fault != "no power"
    fake_gpu.period = 1e6 if fault == "stuck" else 0.1
    found = on_gpu(fake_gpu, 0.3 if fault == "short" else 3.0, monkeypatch, idle_after=lambda since: 95)
    for metric in Energy.metrics:
        assert (found.values.get(metric.name) is None) == bool(found.reasons.get(metric.name)), metric.name


def test_samples_from_two_threads_never_look_like_a_counter_that_went_backwards(fake_gpu: Any):
    """The window's start and end are sampled beside the thread, whose reading may be under way just then."""
    chance = random.Random(0)
    value = itertools.count()

    def slow(handle: int) -> int:
        joules = next(value)
        time.sleep(chance.choice([0, 0.001]))
        return joules * 1000

    meter = gpu_energy.GpuEnergy()
    fake_gpu.nvmlDeviceGetTotalEnergyConsumption = slow
    threads = [threading.Thread(target=lambda: [meter.sample() for _ in range(40)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(meter.counter) == 120
    assert meter.counter == sorted(meter.counter)
    assert [joules for _, joules in meter.counter] == sorted(joules for _, joules in meter.counter)


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


def test_a_window_with_cold_caches_has_energy_but_no_share_for_a_step_or_token():
    meter = Energy()
    meter.open("cpu")
    meter.start()
    time.sleep(0.03)
    meter.stop()
    found = meter.readings(Window(Work(samples=1, output_tokens=4), [0.03], [], 0, 30_000_000, flushed_bytes=1))
    shares = [metric.name for metric in Energy.metrics if "_per_" in metric.name and "kilowatt" not in metric.name]
    assert shares
    for name in shares:
        assert found.values.get(name) is None
    assert "flushed" in found.reasons["energy_per_token_estimated_joules"]
