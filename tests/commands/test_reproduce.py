"""A row measured again from what it stores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.commands.reproduce import (
    between_processes,
    environment_changes,
    memory_lines,
    rebuilt,
    reproduce,
    show,
    within_processes,
)
from harness.errors import UserError
from harness.rows.store import Results, read_rows, write_row
from harness.trial import Trial


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, quick: Callable[..., list[str]]) -> tuple[Path, dict[str, Any]]:
    results = tmp_path_factory.mktemp("reproduced")
    text = tmp_path_factory.mktemp("text")
    for number in range(40):
        (text / f"{number}.txt").write_text(f"document {number} " * 200)
    options = [item for item in quick("prefill") if not item.startswith("corpus.")]
    row = harness.run_trial(*options, "technique=gqa", "corpus=text", f"corpus.folder={text}", results=str(results))
    assert row["status"] == "ok", row["reason"]
    return results, row


def test_a_row_is_measured_again_as_often_as_asked(stored: tuple[Path, dict[str, Any]]):
    results, row = stored
    text = reproduce(results, row["row_id"], times=2)
    rows = read_rows(Results(results)).table.to_pylist()
    assert len(rows) == 3
    assert len({one["trial_json"] for one in rows}) == len({one["trial_id"] for one in rows}) == 1
    assert "from the scatter of 2 new processes and one old" in text
    assert "weights_bytes: old" in text
    assert "exact" in text
    assert "gpu_energy_per_token_joules: not measured (no GPU)" in text
    assert "quality_bits_per_byte: not measured (random weights predict nothing)" in text


def changed(row: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    trial = json.loads(row["trial_json"])
    change(trial)
    return {**row, "trial_json": json.dumps(trial)}


def test_what_is_rebuilt_is_the_same_trial(stored: tuple[Path, dict[str, Any]]):
    trial = rebuilt(stored[1])
    assert isinstance(trial, Trial)
    assert trial.id == stored[1]["trial_id"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["techniques"][0].update(target="harness.techniques.gone.Gone"), "cannot import _target_"),
        (lambda t: t["techniques"][0].update(target="harness.trial.Trial"), "is not a Technique"),
        (lambda t: t["workload"]["options"].update(old_key=1), "unknown key 'old_key'"),
        (lambda t: t["workload"]["options"].pop("batch_size"), "options that the row does not know (batch_size)"),
        (lambda t: t["workload"]["options"].update(batch_size="many"), "batch_size"),
        (lambda t: t["corpus"]["options"].update(folder="/nowhere"), "files of its corpus 'text' have changed or are"),
        (lambda t: t["content"]["corpus"].update(sha256="0"), "files of its corpus 'text' have changed or are gone"),
        (lambda t: t.update(device="cuda"), "no NVIDIA GPU answers here"),
        (lambda t: t.pop("content"), "stores no trial that this version can read"),
    ],
)
def test_a_row_that_cannot_be_rebuilt_is_one_line(
    stored: tuple[Path, dict[str, Any]], change: Any, words: str, monkeypatch: pytest.MonkeyPatch
):
    from harness.machine.gpu import gpu_count

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu_count.cache_clear()
    with pytest.raises(UserError) as error:
        rebuilt(changed(stored[1], change))
    gpu_count.cache_clear()
    assert words in str(error.value)
    assert str(error.value).startswith(f"row {stored[1]['row_id']} cannot be measured again: ")
    assert "\n" not in str(error.value)


@given(st.one_of(st.none(), st.text(), st.recursive(st.integers(), st.lists).map(json.dumps)))
def test_no_text_in_place_of_a_trial_is_a_traceback(text: str | None):
    with pytest.raises(UserError, match="stores no trial"):
        rebuilt({"row_id": "x", "trial_json": text})


def test_the_command_exits_with_2_and_one_line(stored: tuple[Path, dict[str, Any]], tmp_path: Path):
    write_row(Results(tmp_path), changed(stored[1], lambda t: t["model"].update(target="gone.Model")))
    command = [sys.executable, "-m", "harness", "reproduce", "last", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "cannot import _target_ 'gone.Model'" in line
    assert len(read_rows(Results(tmp_path)).table) == 1


@pytest.mark.parametrize("times", [2, 3, 10])
def test_the_interval_between_processes_holds_an_unchanged_row_in_95_of_100_cases(times: int):
    generator = np.random.default_rng(times)
    draws = np.exp(generator.normal(-3, 0.1, (4000, times + 1))).tolist()
    inside = 0
    for old, *new in draws:
        bounds = between_processes({"latency_p50_seconds": old}, [{"latency_p50_seconds": value} for value in new])
        assert bounds is not None
        inside += bounds[0] <= 1 <= bounds[1]
    assert 0.93 <= inside / 4000 <= 0.97


def test_the_interval_within_two_processes_holds_equal_medians():
    generator = np.random.default_rng(5)
    draws = generator.exponential(1, (1000, 2, 40)).tolist()
    bounds = [within_processes({"step_seconds": a}, {"step_seconds": b}) for a, b in draws]
    assert sum(low <= 1 <= high for low, high in bounds) >= 950  # type: ignore[misc]
    assert within_processes({"step_seconds": [1.0] * 3}, {"step_seconds": [1.0] * 3}) is None
    assert between_processes({"latency_p50_seconds": 1.0}, [{"latency_p50_seconds": 1.0}]) is None


FACTS = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=3)),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
).filter(lambda facts: isinstance(facts, dict))


@given(FACTS, FACTS)
def test_every_difference_of_the_environment_is_named(before: dict[str, Any], after: dict[str, Any]):
    plain = {"versions_json": "{}", "code_revision": "x"}
    changes = environment_changes(
        {**plain, "environment_json": json.dumps(before)}, {**plain, "environment_json": json.dumps(after)}
    )

    def leaves(facts: Any, path: str = "") -> dict[str, Any]:
        if not isinstance(facts, dict):
            return {path: facts}
        return {key: leaf for name in facts for key, leaf in leaves(facts[name], f"{path}.{name}").items()}

    one, other = leaves(before), leaves(after)
    differing = {key.lstrip(".") for key in {*one, *other} if one.get(key, "?") != other.get(key, "?")}
    # A leaf that is absent and one that is null are told apart where they are printed.
    assert {change.split(" ")[0] for change in changes} <= differing
    assert {key for key in differing if one.get("." + key) != other.get("." + key)} <= {
        c.split(" ")[0] for c in changes
    }


def test_software_device_and_machine_are_compared(stored: tuple[Path, dict[str, Any]]):
    old = {**stored[1], "gpu_uuid": "GPU-1", "code_revision": "then"}
    versions = {**json.loads(old["versions_json"]), "torch": "9"}
    machine = {**json.loads(old["environment_json"]), "host_name": "elsewhere"}
    new = {**old, "gpu_uuid": "GPU-2", "code_revision": "now", "versions_json": json.dumps(versions)}
    changes = environment_changes(old, {**new, "environment_json": json.dumps(machine)})
    for words in ("torch ", "harness code then -> now", "gpu_uuid GPU-1 -> GPU-2", "host_name "):
        assert any(change.startswith(words) for change in changes), words
    assert environment_changes(old, old) == []


def test_failures_are_told_and_one_byte_is_a_difference(stored: tuple[Path, dict[str, Any]]):
    row = stored[1]
    text = show(row, [{**row, "row_id": "later", "status": "oom", "reason": "no room"}])
    assert "no numbers of later: oom: no room" in text
    assert "latency_p50_seconds" not in text
    lines = memory_lines(row, [row, {**row, "weights_bytes": row["weights_bytes"] + 1}])
    assert any(line.startswith("weights_bytes") and "+1 bytes" in line for line in lines)
    energy = [{**row, "gpu_energy_per_token_joules": value} for value in (1.0, 1.029, 1.04)]
    assert "within 3%" in show(energy[0], energy[1:2])
    assert "differs by more than 3%" in show(energy[0], energy[2:])
