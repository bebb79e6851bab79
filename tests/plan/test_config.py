"""What a user mistypes: one line that names it, exit code 2, nothing measured. What a user means: the right trials."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Arguments, what the one line must name, and what it must suggest.
MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "an option of a group": (["model=tiny_lama"], ["'tiny_lama'", "'tiny_llama'"]),
    "a technique": (["technique=lorra"], ["'lorra'", "'lora'"]),
    "a technique in a stack": (["technique=[nf4,lorra]"], ["'lorra'", "'lora'"]),
    "a technique among others": (["technique=none,lorra"], ["'lorra'", "'lora'"]),
    "a workload": (["workload=trainstep"], ["'trainstep'", "'train_step'"]),
    "a meter": (["meters=[latncy]"], ["'latncy'", "'latency'"]),
    "a protocol": (["protocol=quik"], ["'quik'", "'quick'"]),
    "a corpus": (["corpus=packagedocs"], ["'packagedocs'", "'package_docs'"]),
    "a sweep": (["sweep=quikstart"], ["'quikstart'", "'quickstart'"]),
    "a group": (["modl=tiny_llama"], ["'modl'", "'model'"]),
    "an added group": (["+modl=tiny_llama"], ["'modl'"]),
    "a new key": (["+colour=red"], ["'colour'"]),
    "a technique's option": (["technique=lora", "technique.lora.rank=8"], ["'rank'", "technique 'lora'"]),
    "an added technique's option": (["technique=lora", "+technique.lora.rr=8"], ["'rr'", "'r'"]),
    "an option of a technique that nobody chose": (["technique=none", "technique.lora.r=8"], ["lora"]),
    "a workload's option": (["workload=decode", "workload.new_token=8"], ["'new_token'", "'new_tokens'"]),
    "a model's option": (["model.dtyp=float32"], ["'dtyp'", "'dtype'"]),
    "a protocol's option": (["protocol.minimum_second=1"], ["'minimum_second'", "'minimum_seconds'"]),
    "a setting": (["run.timeout=5"], ["'timeout'", "'timeout_seconds'"]),
    "a word for a number": (["workload.batch_size=eight"], ["batch_size", "'eight'"]),
    "a fraction for a whole number": (["technique=lora", "technique.lora.r=1.5"], ["technique 'lora'", "r", "1.5"]),
    "a value out of range": (["technique=lora", "technique.lora.r=0"], ["technique 'lora'", "at least 1"]),
    "a dtype": (["model.dtype=float31"], ["dtype", "'float31'", "'float32'"]),
    "a device": (["device=gpu"], ["'gpu'", "cuda"]),
    "a seed": (["seed=first"], ["seed", "'first'"]),
    "a time limit": (["run.timeout_seconds=-1"], ["timeout_seconds", "above 0"]),
    "limits in the wrong order": (["protocol.maximum_seconds=0.1"], ["maximum_seconds"]),
    "a class": (["model._target_=harness.models.hf.HFF"], ["harness.models.hf.HFF"]),
    "a class of another kind": (["model._target_=harness.techniques.peft.lora.Lora"], ["Lora", "Model"]),
    "a function for a class": (["model._target_=os.system"], ["os.system", "Model"]),
    "broken brackets": (["technique=[none"], ["'[none'"]),
    "an option on the wrong side": (["technique.lora.r=8"], ["technique.lora.r=8", "'lora'"]),
    "a missing equals sign": (["tiny_llama"], ["tiny_llama"]),
}
#: Mistakes that only a process with the libraries can see, before the first trial.
LATE_MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "heads that do not divide": (
        ["model.architecture.num_attention_heads=3"],
        ["num_attention_heads 3", "hidden_size 128"],
    ),
    "a folder of text": (["corpus=text", "corpus.folder=/no/such/folder"], ["/no/such/folder"]),
}


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("harness: ")
    return lines[0]


def left_rows(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.parquet*") if path.is_file()]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(
    mistake: str, trials_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    from harness.errors import UserError

    arguments, named = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        trials_of("device=cpu", *arguments) if "device=gpu" not in arguments else trials_of(*arguments)
    line = str(caught.value)
    assert "\n" not in line
    assert [name for name in named if name not in line] == [], line
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mistake", ["an option of a group", "a technique's option", "a group", "a word for a number"])
def test_the_command_ends_with_code_2_and_one_line(mistake: str, sweep: Any):
    arguments, named = MISTAKES[mistake]
    done = sweep.run("device=cpu", *arguments)
    line = one_line(done.stderr)
    assert [name for name in named if name not in line] == [], line
    assert (done.returncode, done.stdout) == (2, "")
    assert left_rows(sweep.folder) == []


@pytest.mark.parametrize("mistake", LATE_MISTAKES)
def test_what_cannot_exist_stops_the_sweep_before_its_first_trial(
    mistake: str, sweep: Any, quick: Callable[..., list[str]]
):
    arguments, named = LATE_MISTAKES[mistake]
    given = [item for item in quick("decode") if not (mistake == "a folder of text" and item.startswith("corpus."))]
    done = sweep.run(*given, "technique=none,lora", *arguments)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("harness: ")
    assert [name for name in named if name not in last] == [], last
    assert sum(line.startswith("harness: ") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert left_rows(sweep.folder) == []


@pytest.mark.parametrize("command", [["runn"], ["reprot"], ["--verbose"]])
def test_an_unknown_command_is_named(command: list[str], capsys: pytest.CaptureFixture[str]):
    from harness.cli import main

    assert main(command) == 2
    assert repr(command[0]) in one_line(capsys.readouterr().err)


def test_a_file_in_the_way_of_the_results_is_named(sweep: Any):
    sweep.results.write_text("a file")
    done = sweep.run("device=cpu", "model=tiny_llama", "workload=decode")
    assert str(sweep.results) in one_line(done.stderr)
    assert done.returncode == 2
    assert sweep.results.read_text() == "a file"


def test_an_empty_command_line_shows_what_there_is(capsys: pytest.CaptureFixture[str]):
    from harness.cli import main

    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "run" in capsys.readouterr().out


def labels(trials: list[Any]) -> list[str]:
    return sorted(trial.technique_label for trial in trials)


def test_options_of_a_technique_multiply_only_its_own_trials(trials_of: Callable[..., list[Any]]):
    trials = trials_of("device=cpu", "technique=none,lora,gqa", "technique.lora.r=4,8")
    assert labels(trials) == ["gqa", "lora[r=4]", "lora[r=8]", "none"]
    assert {trial.techniques[0].options["r"] for trial in trials if "lora" in trial.technique_label} == {4, 8}


def test_options_reach_a_technique_inside_a_stack(trials_of: Callable[..., list[Any]]):
    trials = trials_of("device=cpu", "technique=none,[nf4,lora]", "technique.lora.r=4")
    assert labels(trials) == ["nf4+lora[r=4]", "none"]


def test_a_name_that_is_part_of_another_does_not_take_its_options(trials_of: Callable[..., list[Any]]):
    trials = trials_of("device=cpu", "technique=gqa,mqa", "technique.mqa.key_value_heads=1,4")
    assert labels(trials) == ["gqa", "mqa[key_value_heads=1]", "mqa[key_value_heads=4]"]


def test_two_names_for_one_measurement_are_one_trial(trials_of: Callable[..., list[Any]]):
    assert len(trials_of("device=cpu", "technique=gqa,mqa", "technique.mqa.key_value_heads=2")) == 1


def test_the_order_of_a_stack_is_the_users(trials_of: Callable[..., list[Any]]):
    assert labels(trials_of("device=cpu", "technique=[nf4,lora],[lora,nf4]")) == ["lora+nf4", "nf4+lora"]


def test_a_repeat_has_its_own_seed_and_the_same_configuration(trials_of: Callable[..., list[Any]]):
    trials = trials_of("device=cpu", "seed=5", "run.repeats=3")
    assert [trial.seed for trial in trials] == [5, 6, 7]
    assert len({trial.config_id for trial in trials}) == 1


@pytest.mark.parametrize(
    "settings",
    ["run.timeout_seconds=5", "run.order=given", "run.results=elsewhere", "run.isolation=spawn", "run.rerun=all"],
)
def test_a_setting_does_not_change_what_is_measured(settings: str, trials_of: Callable[..., list[Any]]):
    assert [t.id for t in trials_of("device=cpu", settings)] == [t.id for t in trials_of("device=cpu")]


def test_a_changed_option_makes_another_trial_with_another_label(trials_of: Callable[..., list[Any]]):
    plain, wide = (
        trials_of("device=cpu", "model=tiny_llama"),
        trials_of("device=cpu", "model=tiny_llama", "model.architecture.hidden_size=96"),
    )
    assert plain[0].id != wide[0].id
    assert wide[0].model.label == "tiny_llama[hidden_size=96]"


def test_an_option_spelt_out_with_its_own_value_is_the_same_trial(trials_of: Callable[..., list[Any]]):
    plain, spelt = (
        trials_of("device=cpu", "technique=lora"),
        trials_of("device=cpu", "technique=lora", "technique.lora.r=16"),
    )
    assert plain[0].id == spelt[0].id


@pytest.mark.parametrize(
    ("argument", "read"),
    [
        ("model=tiny_llama", lambda trial: trial.model.name == "tiny_llama"),
        ("technique=lion", lambda trial: trial.technique_label == "lion"),
        ("workload=prefill", lambda trial: trial.workload.name == "prefill"),
        ("corpus=python_source", lambda trial: trial.corpus.name == "python_source"),
        ("protocol=standard", lambda trial: trial.protocol["minimum_samples"] == 20),
    ],
)
def test_the_command_line_wins_over_a_named_sweep(
    argument: str, read: Callable[[Any], bool], trials_of: Callable[..., list[Any]]
):
    given = {"model": "model=tiny_llama", "technique": "technique=none,gqa", "workload": "workload=prefill"}
    given[argument.partition("=")[0]] = argument
    trials = trials_of("device=cpu", "sweep=quickstart", *given.values())
    assert trials
    assert all(read(trial) for trial in trials)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_strangers_folder_may_be_named_anywhere_on_the_line(place: int, sweep: Any):
    (sweep.folder / "own").mkdir()
    arguments = ["technique=none", "workload=decode"]
    arguments.insert(place, "--config-dir=own")
    done = sweep.run("--cfg=job", *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_of_options_that_is_not_there_is_named(sweep: Any):
    done = sweep.run("--config-dir=nowhere", "technique=none")
    assert "nowhere" in one_line(done.stderr)
    assert done.returncode == 2


def test_a_strangers_folder_adds_a_technique(tmp_path: Path, trials_of: Callable[..., list[Any]]):
    (tmp_path / "technique").mkdir()
    (tmp_path / "technique" / "mine.yaml").write_text(
        "# @package technique.mine\n_target_: mine_here.Mine\nfactor: 2\n"
    )
    (tmp_path / "mine_here.py").write_text(
        "from dataclasses import dataclass\nfrom harness.interfaces import Technique\n"
        "@dataclass(frozen=True)\nclass Mine(Technique):\n    factor: int = 1\n    family = 'mine'\n"
    )
    (trial,) = trials_of(f"--config-dir={tmp_path}", "device=cpu", "technique=mine")
    assert trial.techniques[0].options == {"factor": 2}


def test_a_technique_without_its_package_line_is_explained(tmp_path: Path, trials_of: Callable[..., list[Any]]):
    from harness.errors import UserError

    (tmp_path / "technique").mkdir()
    (tmp_path / "technique" / "bare.yaml").write_text("_target_: harness.techniques.peft.lora.Lora\n")
    with pytest.raises(UserError, match=re.escape("# @package technique")):
        trials_of(f"--config-dir={tmp_path}", "device=cpu", "technique=bare")


def test_showing_a_configuration_starts_nothing(sweep: Any):
    done = sweep.run("--cfg", "job", "model=tiny_llama")
    assert done.returncode == 0
    assert "num_attention_heads: 4" in done.stdout
    assert left_rows(sweep.folder) == []
    assert sweep.processes() == []
