"""This machine's own roofs: each rate whole or absent with a reason, and a file whose faults become reasons."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import main
from harness.machine import load as machine_load
from harness.machine import measured_roofs
from harness.machine.measured_roofs import MeasuredRoofs, Rate
from harness.meters import rates
from harness.meters.kernels import Kernel, memory, products
from harness.meters.rates import Sizes, best_rate, measure_roofs
from harness.rows.store import Results, locked
from harness.run.worker import ROOFS_VARIABLE

SMALL = Sizes(products=(16, 32), buffers=(4096, 8192), repeats=10)


def rate(median: float = 2e11, **others: Any) -> Rate:
    return replace(Rate(median, 0.9 * median, 1.1 * median, 512, 10), **others)


def roofs(key: str, **others: Any) -> MeasuredRoofs:
    found = MeasuredRoofs(
        key=key,
        device_name="a processor",
        measured_at="2026-01-02T03:04:05+00:00",
        torch_version="2.13.0",
        thread_count=1,
        power_limit_watts=None,
        cache_bytes=None,
        quiet="quiet",
        flops_per_second={"float32": rate(), "float16": Rate(reason="no such kernel")},
        bytes_per_second={"copy": rate(1e10), "read": rate(2e10)},
    )
    return replace(found, **others)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process looks for its roofs."""
    monkeypatch.setenv(ROOFS_VARIABLE, str(tmp_path / "roofs"))
    return tmp_path / "roofs"


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of small sizes, on a machine that nobody else uses."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(rates, "default_sizes", lambda device, cache: SMALL)
    quiet = machine_load.Load(0.5, 0.5, 0.0, 0.0)
    monkeypatch.setattr(machine_load, "between", lambda before, after: quiet)


def own_key() -> str:
    key = measured_roofs.device_key("cpu")
    assert key is not None
    return key


def test_every_kind_of_work_has_a_rate_or_a_reason(quickly: None, folder: Path):
    heard: list[str] = []
    precision = torch.get_float32_matmul_precision()
    found = measure_roofs("cpu", 0.05, heard.append, SMALL)
    assert [*found.flops_per_second, *found.bytes_per_second] == heard
    assert heard == ["float32", "bfloat16", "float16", "int8", "float8", "copy", "read"]
    for each in (*found.flops_per_second.values(), *found.bytes_per_second.values()):
        assert each.reason if each.median_per_second is None else each.repeat_count >= 10
    assert {each.size for each in found.flops_per_second.values()} <= {*SMALL.products, None}
    assert {each.size for each in found.bytes_per_second.values()} <= {*SMALL.buffers}
    assert found.flops_per_second["float32"].median_per_second
    assert found.thread_count == torch.get_num_threads()
    assert torch.get_float32_matmul_precision() == precision
    measured_roofs.write(folder, found)
    assert measured_roofs.read("cpu") == (found, "")


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "int8", "float8"])
def test_a_product_is_a_product_of_normal_numbers(name: str):
    (kernel,) = (kernel for kernel in products("cpu") if kernel.name == name)
    step = kernel.make(64)
    held = {
        key: cell.cell_contents for key, cell in zip(step.__code__.co_freevars, step.__closure__ or (), strict=True)
    }
    a, b = held["a"].double(), held["b"].double()
    step()
    right = a @ (b.T if name in ("int8", "float8") else b)
    assert torch.allclose(held["out"].double(), right, rtol=0.02, atol=0.3)
    assert kernel.work(64) == 2 * 64**3
    assert 0.9 < float(a.std()) / (32 if name == "int8" else 1) < 1.1


def test_a_copy_counts_bytes_read_and_written_and_a_read_only_read():
    assert {kernel.name: kernel.work(4096) for kernel in memory("cpu")} == {"copy": 8192, "read": 4096}


@given(st.lists(st.floats(1e6, 1e15), min_size=1, max_size=6), st.integers(0, 6))
def test_the_best_median_stands_whatever_fails_after_it(medians: list[float], good: int):
    sizes = list(range(1, len(medians) + 1))

    def one(kernel: Kernel, size: int, repeats: int, seconds: float, device: str) -> Rate:
        if size > good:
            raise RuntimeError("out of  memory\nat that size")
        return rate(medians[size - 1], size=size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "_rate", one)
        found = best_rate(Kernel("any", lambda size: None, lambda size: 1.0), sizes, 10, 3600.0, "cpu")
    if good == 0:
        assert found == Rate(reason="out of memory at that size")
    else:
        assert found.median_per_second == max(medians[:good])
        assert found.size == 1 + medians.index(found.median_per_second)


def test_a_size_that_would_take_too_long_is_not_even_made():
    made: list[int] = []

    def make(size: int) -> Callable[[], None]:
        made.append(size)
        return lambda: None

    best_rate(Kernel("any", make, lambda size: 1e12 if size > 2 else 1e-3), [1, 2, 3, 4], 3, 0.2, "cpu")
    assert made == [1, 2]


def test_a_missing_file_says_what_to_run(folder: Path):
    found, reason = measured_roofs.read("cpu")
    assert found is None
    assert "harness calibrate" in reason


def test_another_devices_file_is_not_taken(folder: Path):
    path = measured_roofs.write(folder, roofs("other-2-threads"))
    path.rename(folder / f"{own_key()}.json")
    found, reason = measured_roofs.read("cpu")
    assert found is None
    assert "other-2-threads" in reason


def test_other_threads_are_another_device(folder: Path, monkeypatch: pytest.MonkeyPatch):
    measured_roofs.write(folder, roofs(own_key()))
    assert measured_roofs.read("cpu")[0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert measured_roofs.read("cpu")[0] is None


def test_a_process_without_torch_has_no_roofs_of_torch(folder: Path, monkeypatch: pytest.MonkeyPatch):
    measured_roofs.write(folder, roofs(own_key()))
    monkeypatch.delitem(sys.modules, "torch")
    found, reason = measured_roofs.read("cpu")
    assert found is None
    assert "does not use" in reason


def test_rates_of_a_machine_that_others_used_are_not_used(folder: Path):
    measured_roofs.write(folder, roofs(own_key(), quiet="not quiet: others took 40% of the processor"))
    found, reason = measured_roofs.read("cpu")
    assert found is None
    assert "40%" in reason


@given(st.data())
def test_a_damaged_file_gives_a_reason_and_never_an_error(tmp_path_factory: Any, data: st.DataObject):
    folder = tmp_path_factory.mktemp("damaged")
    good = roofs(own_key())
    path = measured_roofs.write(folder, good)
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "overwritten", "value", "noise"]))
    if kind == "cut":
        content = content[: data.draw(st.integers(0, len(content) - 3))]
    elif kind == "overwritten":
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    elif kind == "noise":
        content = bytearray(data.draw(st.binary(max_size=40)))
    else:
        plain = json.loads(content)
        bad = data.draw(st.sampled_from([None, "fast", -1.0, 0.0, float("nan"), float("inf"), [], {}]))
        plain["flops_per_second"]["float32"]["median_per_second"] = bad
        content = bytearray(json.dumps(plain).encode())
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOFS_VARIABLE, str(folder))
        found, reason = measured_roofs.read("cpu")
    assert (found is None) == bool(reason)
    if kind != "overwritten":
        assert found is None
    if found is not None:
        assert all(
            each.median_per_second is None or each.median_per_second > 0 for each in found.flops_per_second.values()
        )
    else:
        assert "harness calibrate" in reason


@pytest.mark.parametrize(
    "given_up", [{"median_per_second": 1.0}, {}, {"median_per_second": 3.0, "lower_quartile_per_second": 4.0}]
)
def test_a_rate_is_whole_or_absent_with_a_reason(given_up: dict[str, float]):
    with pytest.raises(ValueError, match="rate"):
        Rate(**given_up)


def test_the_command_writes_the_file_and_shows_it(quickly: None, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["calibrate", "--results", str(folder.parent), "--seconds", "0.05"]) == 0
    said = capsys.readouterr()
    found, _ = measured_roofs.read("cpu")
    assert found is not None
    assert str(folder / f"{found.key}.json") in said.out
    for name in (*found.flops_per_second, *found.bytes_per_second):
        assert name in said.out
        assert f"measuring {name}" in said.err
    assert "not quiet" not in said.err
    assert main(["calibrate", "--results", str(folder.parent), "--seconds", "0.05", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == found.key
    assert [path.suffix for path in folder.iterdir()] == [".json"]


def test_a_machine_that_others_use_is_said(
    quickly: None, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(machine_load, "between", lambda before, after: machine_load.Load(0.1, 0.9, 0.8, 0.0))
    assert main(["calibrate", "--results", str(folder.parent), "--seconds", "0.05"]) == 0
    assert "others took 80%" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["calibrate", "--results", str(tmp_path), "--seconds", seconds]) == 2
    assert "--seconds" in capsys.readouterr().err
    assert not (tmp_path / "roofs").exists()


def test_a_sweep_is_not_disturbed(quickly: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with locked(Results(tmp_path)):
        assert main(["calibrate", "--results", str(tmp_path), "--seconds", "0.05"]) == 2
    assert "another sweep" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(quickly: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "roofs").write_text("in the way")
    assert main(["calibrate", "--results", str(tmp_path), "--seconds", "0.05"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "measuring" not in line]
    assert "a file of that name is in the way" in line


def test_doctor_says_whether_this_device_is_calibrated(folder: Path):
    assert measured_roofs.availability("cpu").startswith("unavailable")
    measured_roofs.write(folder, roofs("another-device-8-threads"))
    assert measured_roofs.availability("cpu").startswith("unavailable")
    measured_roofs.write(folder, roofs(own_key()))
    assert "2026-01-02" in measured_roofs.availability("cpu")
    measured_roofs.write(folder, roofs(own_key(), quiet="not quiet: others took 40% of the processor"))
    assert "40%" in measured_roofs.availability("cpu")
    (folder / f"{own_key()}.json").write_text("{")
    assert measured_roofs.availability("cpu").startswith("unavailable")


def test_a_row_is_held_against_the_roofs_beside_its_rows(sweep: Any, quick: Callable[..., list[str]]):
    # The trials of a test's sweep have one thread.
    measured_roofs.write(sweep.results / "roofs", roofs(f"{measured_roofs.device_stem('cpu')}-1-threads"))
    done = sweep.run(*quick("prefill"))
    assert done.returncode == 0, done.stderr
    (row,) = sweep.rows()
    assert row["mfu_of_measured_roof_ratio"] == pytest.approx(row["model_flops_per_second"] / 2e11)
    rate = row["step_moved_bytes"] * row["step_count"] / sum(row["step_seconds"])
    assert row["mbu_of_measured_roof_ratio"] == pytest.approx(rate / 2e10)
    said = json.loads(row["facts_json"])["measured_roof"]
    assert (said["flops_per_second"], said["bytes_per_second"]) == (2e11, 2e10)
    assert said["measured_at"] == "2026-01-02T03:04:05+00:00"
