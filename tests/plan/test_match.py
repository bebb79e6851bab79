"""`match` is part of what is measured where a technique changes the architecture, and nothing elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.report.command import command_of
from harness.report.setting import setting_of
from harness.trial import MATCHES, Part, Trial

PART = Part("a", "shelf.A", {"x": 1})
TRIAL = Trial(PART, (PART,), PART, PART, {"seconds": 1.0}, (PART,), "cpu", 3)


def test_rows_from_before_there_was_a_match_keep_their_ids():
    assert (TRIAL.id, TRIAL.config_id) == ("434cc0f8c277f73a", "b05dd0d827b8e580")
    before = TRIAL.to_dict()
    del before["match"]
    assert Trial.from_dict(before) == TRIAL


def test_each_match_is_another_measurement_with_a_label_of_its_own():
    trials = [replace(TRIAL, match=match) for match in MATCHES]
    for name in ("id", "config_id", "technique_label"):
        assert len({getattr(trial, name) for trial in trials}) == len(MATCHES)
    assert [Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) for trial in trials] == trials


def test_variants_stand_on_the_board_of_their_baseline():
    settings = {setting_of(json.dumps(replace(TRIAL, match=match).to_dict())) for match in MATCHES}
    assert len(settings) == 1


def test_a_baseline_is_one_trial_whatever_is_matched(trials_of: Callable[..., list[Any]]):
    trials = trials_of("device=cpu", "technique=none,lora,mqa,[mqa,lora]", "match=none,parameters")
    labels = ["lora", "mqa", "mqa match=parameters", "mqa+lora", "mqa+lora match=parameters", "none"]
    assert sorted(trial.technique_label for trial in trials) == labels
    assert len({trial.id for trial in trials}) == len(trials)


def test_the_command_of_a_row_says_what_was_matched(trials_of: Callable[..., list[Any]]):
    (trial,) = trials_of("device=cpu", "technique=mqa", "match=kv_bytes")
    assert " match=kv_bytes " in command_of(json.dumps(trial.to_dict()))
    assert "match" not in command_of(json.dumps(replace(trial, match="none").to_dict()))


def test_an_unknown_quantity_is_refused_with_the_nearest(trials_of: Callable[..., list[Any]]):
    with pytest.raises(UserError, match=r"'parameter' cannot be matched\. Did you mean 'parameters'"):
        trials_of("device=cpu", "technique=mqa", "match=parameter")


def test_a_model_without_sizes_cannot_be_matched(tmp_path: Path, trials_of: Callable[..., list[Any]]):
    shutil.copytree(Path(__file__).parents[1] / "stranger", tmp_path / "own")
    with pytest.raises(UserError, match="has no `matching`; use match=none"):
        trials_of(f"--config-dir={tmp_path / 'own'}", "device=cpu", "model=toy", "technique=mqa", "match=flops")
