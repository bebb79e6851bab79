"""A sweep from the command line to its rows: every way in which a trial can end, and every way to stop."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

TOY = ["--config-dir=own", "device=cpu", "model=toy", "workload=toy", "meters=[latency]"]
TOY += ["protocol.minimum_seconds=0.02", "protocol.maximum_seconds=0.1"]
ENDINGS = "none scale idle raises out_of_host_memory exits segfaults hangs never_applies".split()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], Any], seconds: float = 40) -> Any:
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def ended(new_sweep: Callable[[], Any]) -> tuple[Any, dict[str, dict[str, Any]], str]:
    """One row for each ending, of a model without a library."""
    sweep = new_sweep().with_stranger().without_torch()
    done = sweep.run(*TOY, f"technique={','.join(ENDINGS)}", "run.timeout_seconds=2")
    assert done.returncode == 0, done.stderr
    return sweep, {row["technique"]: row for row in sweep.rows()}, done.stderr


@pytest.fixture(scope="module")
def real(new_sweep: Callable[[], Any], quick: Callable[..., list[str]]) -> tuple[dict[str, dict[str, Any]], str, Any]:
    """Rows of the tiny model, with techniques of a stranger's folder beside this package's."""
    sweep = new_sweep().with_stranger()
    names = "none,gqa,scale,idle,raises,out_of_memory,segfaults,mezo"
    done = sweep.run("--config-dir=own", *quick("decode"), f"technique={names}")
    assert done.returncode == 0, done.stderr
    return {row["technique"]: row for row in sweep.rows()}, done.stderr, sweep


def test_every_ending_is_a_row(ended: Any):
    _, rows, _ = ended
    assert {name: row["status"] for name, row in rows.items()} == {
        "none": "ok",
        "scale": "ok",
        "idle": "ok",
        "raises": "error",
        "out_of_host_memory": "oom",
        "exits": "crash",
        "segfaults": "crash",
        "hangs": "timeout",
        "never_applies": "skipped",
    }


def test_every_row_says_what_it_measured_and_where(ended: Any):
    for name, row in ended[1].items():
        assert json.loads(row["trial_json"])["techniques"][0]["name"] == name
        assert {"torch", "python"} <= set(json.loads(row["versions_json"]))
        assert row["device_name"]
        assert row["code_revision"]
        assert "own" in row["command"]
        assert row["trial_seconds"] > 0


def test_an_error_keeps_its_reason_and_its_traceback(ended: Any):
    row = ended[1]["raises"]
    assert row["reason"] == "ValueError: this technique is broken: [red]no[/red] brackets are lost"
    assert "injected.py" in row["traceback"]
    assert "[red]no[/red] brackets" in ended[2], "what a technique says is not taken for markup"


def test_a_crash_names_its_signal_or_its_exit_code_and_its_log(ended: Any):
    rows = ended[1]
    assert "SIGSEGV" in rows["segfaults"]["reason"]
    assert "exit code 3" in rows["exits"]["reason"]
    for name in ("segfaults", "exits"):
        assert "output.txt" in rows[name]["reason"]


def test_a_timeout_takes_what_the_trial_started(ended: Any):
    sweep, rows, _ = ended
    assert "2 s" in rows["hangs"]["reason"]
    assert "run.timeout_seconds" in rows["hangs"]["reason"]
    assert 2 <= rows["hangs"]["trial_seconds"] < 6
    grandchild = int((sweep.results / "logs" / "grandchild.txt").read_text())
    assert not alive(grandchild)


def test_nothing_runs_when_the_sweep_is_over(ended: Any):
    assert ended[0].wait_for_no_process(5) == []


def test_a_technique_that_changes_nothing_is_flagged(ended: Any, real: Any):
    for rows in (ended[1], real[0]):
        assert any("idle changed nothing" in flag for flag in rows["idle"]["flags"])
        assert not any("changed nothing" in flag for name in ("none", "scale") for flag in rows[name]["flags"])


def test_a_skipped_trial_says_why(ended: Any, real: Any):
    assert "it never does" in ended[1]["never_applies"]["reason"]
    assert "training_step" in real[0]["mezo"]["reason"]


def test_the_order_is_the_seeds_and_every_block_holds_every_configuration_once():
    from dataclasses import replace

    from harness.plan.settings import Settings
    from harness.plan.sweep import order
    from harness.trial import Part, Trial

    part = Part("a", "b.C")
    first = Trial(part, (part,), part, part, {}, (), "cpu", 0)
    trials = [replace(first, protocol={"n": n}, seed=seed) for n in range(8) for seed in range(3)]
    shuffled = order(trials, Settings(order_seed=1))
    assert shuffled == order(trials, Settings(order_seed=1))
    assert shuffled != order(trials, Settings(order_seed=2))
    assert sorted(trial.id for _, trial in shuffled) == sorted(trial.id for trial in trials)
    for block in range(3):
        inside = [trial for number, trial in shuffled if number == block]
        assert len({trial.config_id for trial in inside}) == 8
    assert [number for number, _ in shuffled] == sorted(number for number, _ in shuffled)
    given = [trial.protocol["n"] for _, trial in order(trials, Settings(order="given"))]
    assert given == list(range(8)) * 3


def test_the_tiny_model_is_measured_from_the_command_line(real: Any):
    row = real[0]["none"]
    assert (row["status"], row["flags"], row["technique_family"]) == ("ok", [], "baseline")
    assert row["parameter_count"] == 1_016_960
    assert row["weights_bytes"] == 4 * 1_016_960 + 2 * 16 * 4, "parameters, and the rotary frequencies, kept twice"
    assert row["tokens_counted_count"] == row["tokens_expected_count"] > 0
    assert len(row["step_seconds"]) == row["step_count"] >= 5
    assert row["gpu_energy_joules"] is None
    assert json.loads(row["reasons_json"])["gpu_energy_joules"]


def test_every_null_metric_has_a_reason(real: Any):
    from harness.plan.building import make_context
    from harness.trial import Trial

    row = real[0]["none"]
    context = make_context(Trial.from_dict(json.loads(row["trial_json"])), "")
    reasons = json.loads(row["reasons_json"])
    names = {name for name in row if name.endswith(("_seconds", "_bytes", "_joules", "_ratio", "_watts"))}
    names |= {metric.name for metric in context.workload.metrics}
    own = {"step_seconds", "device_step_seconds", "quality_seconds"}
    silent = {name for name in names - own if row.get(name) is None and name not in reasons}
    assert silent <= {"gpu_power_limit_watts", "gpu_memory_total_bytes"}
    assert "no reason was given" not in reasons.values()


def test_a_device_that_runs_out_of_memory_is_a_status_of_its_own(real: Any):
    assert real[0]["out_of_memory"]["status"] == "oom"
    assert "2.00 GiB" in real[0]["out_of_memory"]["reason"]


def test_a_strangers_technique_is_measured_like_our_own(real: Any):
    row = real[0]["scale"]
    assert (row["status"], row["technique_family"]) == ("ok", "injected")
    assert json.loads(row["changed_json"]) == {"scale": "first parameter times 2"}


def test_a_crash_does_not_disturb_the_others(real: Any):
    rows = real[0]
    assert {name: row["status"] for name, row in rows.items()} == {
        "none": "ok",
        "gqa": "ok",
        "scale": "ok",
        "idle": "ok",
        "raises": "error",
        "out_of_memory": "oom",
        "segfaults": "crash",
        "mezo": "skipped",
    }


def test_every_line_of_a_sweep_is_for_people(real: Any):
    lines = real[1].splitlines()
    assert len(lines) == 1 + 8, real[1]
    assert not any("Warning" in line or "Traceback" in line for line in lines)


def test_a_word_for_running_out_of_memory_is_understood():
    import torch

    from harness.run.execute import is_out_of_memory

    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_out_of_memory(RuntimeError("the size of tensor a must match"))


def start_and_wait_for_the_trial(sweep: Any) -> Any:
    """A sweep whose first trials are done and whose last one sleeps."""
    process = sweep.start(*TOY, "technique=none,scale,hangs", "run.order=given")
    wait_until(lambda: (sweep.results / "logs" / "grandchild.txt").exists())
    return process


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_a_stopped_sweep_keeps_its_rows_and_says_how_to_go_on(sent: signal.Signals, sweep: Any):
    sweep.with_stranger().without_torch()
    process = start_and_wait_for_the_trial(sweep)
    grandchild = int((sweep.results / "logs" / "grandchild.txt").read_text())
    # A terminal sends Ctrl-C to everything in the foreground; `kill` and schedulers send SIGTERM to the one process.
    if sent is signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)
    out, error = process.communicate(timeout=20)
    assert process.returncode == 130, error
    assert (out, "Traceback" in error) == ("", False)
    last = error.splitlines()[-1]
    assert last.startswith("harness: stopped")
    assert "same command" in last
    assert sweep.wait_for_no_process() == []
    assert not alive(grandchild)
    assert {row["technique"]: row["status"] for row in sweep.rows()} == {"none": "ok", "scale": "ok"}
    assert [path.name for path in (sweep.results / "rows").iterdir() if path.suffix != ".parquet"] == []


def test_a_sweep_stopped_while_the_libraries_load_leaves_nothing(sweep: Any, quick: Callable[..., list[str]]):
    process = sweep.start(*quick("decode"))
    wait_until(lambda: (sweep.results / "logs" / "server.txt").exists())
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert sweep.wait_for_no_process() == []
    assert sweep.rows() == []


def test_a_killed_sweep_takes_its_trial_with_it(sweep: Any):
    sweep.with_stranger().without_torch()
    process = start_and_wait_for_the_trial(sweep)
    process.kill()
    process.wait(20)
    assert sweep.wait_for_no_process() == [], "it would disturb whatever is measured next"
    assert [row["status"] for row in sweep.rows()] == ["ok", "ok"]


def test_a_second_sweep_into_the_same_folder_is_refused_at_once(sweep: Any):
    sweep.with_stranger().without_torch()
    process = start_and_wait_for_the_trial(sweep)
    done = sweep.run(*TOY, "technique=none")
    process.terminate()
    process.communicate(timeout=20)
    assert done.returncode == 2
    assert "another sweep" in done.stderr.splitlines()[-1]


def test_a_fresh_interpreter_measures_the_same_trial(sweep: Any):
    sweep.with_stranger().without_torch()
    done = sweep.run(*TOY, "technique=none,exits,hangs", "run.isolation=spawn", "run.timeout_seconds=3")
    assert done.returncode == 0, done.stderr
    assert {row["technique"]: row["status"] for row in sweep.rows()} == {
        "none": "ok",
        "exits": "crash",
        "hangs": "timeout",
    }
    assert not alive(int((sweep.results / "logs" / "grandchild.txt").read_text()))
    assert sweep.wait_for_no_process() == []


def test_a_full_disk_stops_the_sweep_with_one_line(sweep: Any):
    sweep.with_stranger().without_torch()
    site = sweep.folder / "stubs" / "sitecustomize.py"
    site.write_text(
        "import pyarrow.parquet as pq\n"
        "def full(table, path, **_):\n"
        "    open(path, 'wb').write(b'PAR1')\n"
        "    raise OSError(28, 'No space left on device')\n"
        "pq.write_table = full\n"
    )
    done = sweep.run(*TOY, "technique=none,scale")
    assert done.returncode == 2
    assert "no space is left" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list((sweep.results / "rows").iterdir()) == []
    site.unlink()
    again = sweep.run(*TOY, "technique=none,scale")
    assert again.returncode == 0
    assert "1 finished row" in again.stderr
    assert [row["status"] for row in sweep.rows()] == ["ok", "ok"]


def test_a_row_is_one_parquet_file(ended: Any):
    for path in (ended[0].results / "rows").iterdir():
        assert pq.ParquetFile(path).metadata.num_rows == 1
