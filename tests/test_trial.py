"""A trial's identity: a hash of what is measured, and of nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from harness.trial import Part, Trial

NAMES = st.text("abcdefgh_0123", min_size=1, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=3
)
OPTIONS = st.dictionaries(NAMES, VALUES, max_size=4)
PARTS = st.builds(
    Part,
    name=NAMES,
    target=NAMES.map("shelf.{}.Class".format),
    options=OPTIONS,
    changes=st.lists(NAMES, max_size=2).map(tuple),
)
TRIALS = st.builds(
    Trial,
    model=PARTS,
    techniques=st.lists(PARTS, min_size=1, max_size=3).map(tuple),
    workload=PARTS,
    corpus=PARTS,
    protocol=OPTIONS,
    meters=st.lists(PARTS, max_size=3).map(tuple),
    device=st.sampled_from(["cpu", "cuda"]),
    seed=st.integers(0, 2**31),
    content=OPTIONS,
)
SINGLE = ("model", "workload", "corpus")
SEVERAL = ("techniques", "meters")


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def each_part(trial: Trial, change: Any) -> Trial:
    """`trial` with `change` applied to every part."""
    single = {name: change(getattr(trial, name)) for name in SINGLE}
    several = {name: tuple(change(part) for part in getattr(trial, name)) for name in SEVERAL}
    return replace(trial, **single, **several)


def one_part(trial: Trial, data: st.DataObject, change: Any) -> Trial:
    """`trial` with `change` applied to one part, whichever `data` picks."""
    places = [(name, None) for name in SINGLE]
    places += [(name, index) for name in SEVERAL for index in range(len(getattr(trial, name)))]
    name, index = data.draw(st.sampled_from(places))
    if index is None:
        return replace(trial, **{name: change(getattr(trial, name))})
    parts = list(getattr(trial, name))
    parts[index] = change(parts[index])
    return replace(trial, **{name: tuple(parts)})


@given(TRIALS)
def test_a_round_trip_through_json_keeps_the_trial_and_its_ids(trial: Trial):
    again = Trial.from_dict(json.loads(json.dumps(trial.to_dict())))
    assert again == trial
    assert (again.id, again.config_id) == (trial.id, trial.config_id)


@given(TRIALS)
def test_the_order_of_keys_does_not_change_the_id(trial: Trial):
    again = Trial.from_dict(reversed_keys(json.loads(json.dumps(trial.to_dict()))))
    assert again.id == trial.id


@given(TRIALS, NAMES, st.lists(NAMES).map(tuple))
def test_names_and_labels_do_not_change_the_id(trial: Trial, name: str, changes: tuple[str, ...]):
    renamed = each_part(trial, lambda part: replace(part, name=name, changes=changes))
    assert (renamed.id, renamed.config_id) == (trial.id, trial.config_id)


@given(TRIALS, st.data(), NAMES, VALUES)
def test_any_option_of_any_part_changes_the_id(trial: Trial, data: st.DataObject, key: str, value: Any):
    def change(part: Part) -> Part:
        assume(
            key not in part.options
            or json.dumps(part.options[key], sort_keys=True) != json.dumps(value, sort_keys=True)
        )
        return replace(part, options={**part.options, key: value})

    changed = one_part(trial, data, change)
    assert changed.id != trial.id
    assert changed.config_id != trial.config_id


@given(TRIALS, st.data(), NAMES)
def test_another_class_changes_the_id(trial: Trial, data: st.DataObject, name: str):
    changed = one_part(trial, data, lambda part: replace(part, target=f"{part.target}{name}"))
    assert changed.id != trial.id


@given(TRIALS, st.sampled_from(["protocol", "content"]), NAMES, VALUES)
def test_protocol_and_content_change_the_id(trial: Trial, field: str, key: str, value: Any):
    before = getattr(trial, field)
    assume(key not in before or json.dumps(before[key], sort_keys=True) != json.dumps(value, sort_keys=True))
    assert replace(trial, **{field: {**before, key: value}}).id != trial.id


@given(TRIALS, st.integers(0, 2**31))
def test_the_seed_changes_the_id_and_not_the_config_id(trial: Trial, seed: int):
    assume(seed != trial.seed)
    other = replace(trial, seed=seed)
    assert other.id != trial.id
    assert other.config_id == trial.config_id


@given(TRIALS)
def test_the_device_changes_both_ids(trial: Trial):
    other = replace(trial, device="cuda" if trial.device == "cpu" else "cpu")
    assert other.id != trial.id
    assert other.config_id != trial.config_id


@given(TRIALS)
def test_the_order_of_a_stack_is_part_of_what_is_measured(trial: Trial):
    turned = replace(trial, techniques=trial.techniques[::-1])
    plain = [(part.target, part.options) for part in trial.techniques]
    assume(json.dumps(plain, sort_keys=True) != json.dumps(plain[::-1], sort_keys=True))
    assert turned.id != trial.id


@given(TRIALS)
def test_an_id_is_sixteen_hexadecimal_digits(trial: Trial):
    assert len(trial.id) == 16
    assert set(trial.id + trial.config_id) <= set("0123456789abcdef")


def test_a_changed_option_shows_in_the_label():
    plain = Part("lora", "shelf.Lora", {"r": 16})
    assert plain.label == "lora"
    assert replace(plain, changes=("r=4", "scale=1")).label == "lora[r=4,scale=1]"
