"""The benchmarks of the harness itself: that they run, and that they count what they say."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.rows.store import Results, read_rows

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{Path(name).stem}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


injected, disturbance, slowed = load("injected"), load("disturbance"), load("slow_down/slowed")


class Clock:
    """Time that passes by a millionth whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now


@given(st.floats(1e-4, 0.02), st.floats(0, 0.5))
def test_a_slowed_step_takes_its_own_time_and_the_known_share_of_it(seconds: float, ratio: float):
    clock = Clock()

    def step() -> None:
        clock.now += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slowed, "time", clock)
        slowed.slowed(step, ratio, "cpu")()
    assert clock.now == pytest.approx(seconds * (1 + ratio), abs=5e-6)


def sides(ratios: list[float]) -> list[Any]:
    return [
        tuple(
            {"status": "ok", "latency_p50_seconds": latency, "order_index": 2 * index + place}
            for place, latency in enumerate((1.0, 1.0 / ratio))
        )
        for index, ratio in enumerate(ratios)
    ]


def test_detections_of_the_wrong_sign_are_no_detections():
    spread = [0.999, 1.0, 1.001, 1.0, 0.9995, 1.0005]
    right, wrong, unclear = ([factor * each for each in spread] for factor in (0.98, 1.02, 0.9999))
    found = injected.summary([*sides([*right, *right, *wrong, *unclear, 0.98]), None], 6, 0.02)
    assert (found["comparisons"], found["left_out"]) == (4, 1)
    assert found["detected_ratio"] == 0.5
    assert found["called_faster_ratio"] == 0.25
    assert found["right_sign_ratio"] == 0.75
    assert found["slow_downs_found_ratio"][-1] == pytest.approx(1 / 0.98 - 1, rel=1e-3)


def test_without_a_whole_comparison_the_shares_are_unknown():
    found = injected.summary([None] * 6, 6, 0.02)
    assert found["detected_ratio"] is found["right_sign_ratio"] is None
    assert found["left_out"] == 1


def test_the_injected_slow_down_is_measured_by_fresh_processes(
    tmp_path: Path, quick: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    small = [item for item in quick("decode") if item != "workload=decode"]
    options = ["--comparisons", "1", "--pairs", "2", "--slow-ratio", "4.0", f"--results={tmp_path}"]
    assert injected.main([*options, *small, "meters=[latency]"]) == 0
    found = json.loads((tmp_path / "injected.json").read_text())
    assert (found["comparisons"], found["left_out"], found["slow_ratio"]) == (1, 0, 4.0)
    rows = read_rows(Results(tmp_path)).table.to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    shares = [json.loads(row["trial_json"])["workload"]["options"]["slow_ratio"] for row in rows]
    assert sorted(shares) == [0.0, 0.0, 4.0, 4.0]


def test_bad_input_of_the_injection_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert injected.main(["model=tiny_lama"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_slow_down_is_below_the_limit_only_with_its_whole_interval():
    clear, unclear = disturbance.slow_down([1.001, 1.002, 1.0]), disturbance.slow_down([1.03, 0.97, 1.0])
    assert clear["below_limit"] is True
    assert unclear["below_limit"] is False
    assert unclear["slow_down_low_ratio"] < unclear["slow_down_ratio"] < unclear["slow_down_high_ratio"]
    assert disturbance.slow_down([1.0])["below_limit"] is None


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(disturbance, "calibrated", lambda device, seconds: disturbance.Training(device, 1))
    return disturbance.Bench("cpu", 0.02, 0.005)


def test_the_disturbance_is_that_of_the_default_meters(bench: Any):
    from harness.plan.config import config_folder

    chosen = [
        item for item in yaml.safe_load((config_folder() / "trial.yaml").read_text())["defaults"] if "meters" in item
    ]
    assert [{"meters": [part.name for part in bench.parts]}] == chosen
    seen: list[tuple[str, ...]] = []
    real = disturbance.measure

    def spy(session: Any, protocol: Any, device: str, meters: Any, steps: Any) -> Any:
        seen.append(tuple(type(meter).__name__ for meter in meters))
        return real(session, protocol, device, meters, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disturbance, "measure", spy)
        found = disturbance.disturbance(bench, 4)
    full = tuple(part.target.rpartition(".")[2] for part in bench.parts)
    assert sorted(seen[1:]) == sorted([full] * 4 + [("Placebo",)] * 4 + [()] * 8)
    # A window with something never lies beside another such window of its own pair.
    assert all((seen[index] == ()) != (seen[index + 1] == ()) for index in range(1, 17, 2))
    assert len(found["meters"]["median step"]["pairs_ratio"]) == len(found["placebo"]["loop"]["pairs_ratio"]) == 4
    assert all(math.isfinite(found[side]["mean step"]["slow_down_ratio"]) for side in ("meters", "placebo"))
    assert found["sampling_period_seconds"] > 0
    assert disturbance.show(found).count("below 1%") == 2 * len(disturbance.MIDDLES)


def test_the_disturbance_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "disturbance.json"
    options = ["--quick", "--device=cpu", "--step-seconds=0.001", f"--output={output}"]
    assert disturbance.main(options) == 0
    found = json.loads(output.read_text())
    assert (found["pairs"], found["window_seconds"]) == (3, 0.1)
    assert "meters   median step" in capsys.readouterr().out
    assert disturbance.main(["--device=tpu"]) == 2
