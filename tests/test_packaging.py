"""What a user installs: a wheel that carries its configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in an empty folder, as an installer lays it out."""
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(next(built.glob("*.whl"))).extractall(site)
    return site


def in_an_empty_folder(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -P keeps the current folder off the path, and the unpacked wheel comes before the checkout's editable install.
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-P", "-m", "harness", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_lists_its_own_techniques(unpacked: Path, tmp_path: Path):
    done = in_an_empty_folder(unpacked, tmp_path, "list", "techniques", "--json")
    assert done.returncode == 0, done.stderr
    assert {"none", "lora", "nf4"} <= {entry["name"] for entry in json.loads(done.stdout)}


def test_the_wheel_measures_a_trial_in_an_empty_folder(unpacked: Path, tmp_path: Path):
    small = ["workload.prompt_tokens=16", "workload.quality_windows=2", "protocol.minimum_seconds=0.05"]
    done = in_an_empty_folder(unpacked, tmp_path, "run", "model=tiny_llama", "workload=prefill", *small)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results" / "rows").glob("*.parquet"))) == 1
    spec = json.loads(next((tmp_path / "results" / "logs").glob("2*/spec.json")).read_text())
    assert str(unpacked) in spec["python_path"]
