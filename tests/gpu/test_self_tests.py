"""The harness's tests of itself on an NVIDIA GPU: that they run there, with the GPU's own meters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]

ROOT = Path(__file__).parents[2]
SHORT = ["device=cuda", "model=tiny_llama", "protocol.minimum_seconds=0.1", "protocol.maximum_seconds=0.5"]


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_disturbance_of_the_gpus_meters_is_measured(tmp_path: Path):
    output = tmp_path / "found.json"
    run("benchmarks/disturbance.py", "--quick", "--device=cuda", f"--output={output}")
    found: dict[str, Any] = json.loads(output.read_text())
    assert "NVIDIA" in found["device_name"]
    assert 0 < found["sampling_period_seconds"] <= 0.1
    assert found["step_seconds"] == pytest.approx(0.005, rel=0.5)
    assert len(found["meters"]["loop"]["pairs_ratio"]) == 3


def test_an_injected_slow_down_is_in_both_clocks_of_the_gpu(tmp_path: Path):
    from harness.rows.store import Results, read_rows

    options = ["--comparisons=1", "--pairs=6", "--slow-ratio=1.0", f"--results={tmp_path}"]
    run("benchmarks/injected.py", *options, *SHORT)
    found = json.loads((tmp_path / "injected.json").read_text())
    assert (found["detected_ratio"], found["right_sign_ratio"]) == (1.0, 1.0)
    assert found["slow_downs_found_ratio"][0] == pytest.approx(1.0, rel=0.25)
    for row in read_rows(Results(tmp_path)).table.to_pylist():
        assert row["device_latency_p50_seconds"] == pytest.approx(row["latency_p50_seconds"], rel=0.1)


def test_a_configuration_is_compared_with_itself(tmp_path: Path):
    said = run("-m", "harness", "aa", "--comparisons=2", "--pairs=2", "--json", *SHORT, f"run.results={tmp_path}")
    found = json.loads(said)
    assert (found["comparisons"], found["left_out"]) == (2, 0)
    assert "NVIDIA" in found["device_name"]
