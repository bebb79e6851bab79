"""Every file below conf/ builds, names every field of its class, and every metric says its unit."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.interfaces import UNITS, Metric, Technique, Workload, moments
from harness.plan.building import KINDS, build, find_class
from harness.plan.settings import Settings
from harness.protocol import Protocol

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("model", "technique", "workload", "corpus", "protocol", "meters", "sweep")
FILES = sorted(path for group in GROUPS for path in (CONF / group).glob("*.yaml"))
PARTS = [path for path in FILES if path.parent.name in KINDS]

#: Where a file's value is meant to differ from its class's default, because the file is a variant of the class.
INTENDED = {
    "mqa": {"key_value_heads"},
    "moe_fine": {"shared"},
    "experts_grouped": {"implementation"},
    "experts_batched": {"implementation"},
    "small_llama_trained": {"architecture"},
}
#: Fields that a file may leave at the class's default: all models share them.
LEFT_OUT = {"HF": {"weights", "revision", "attention"}, "Trained": {"weights", "revision", "attention"}}


def identity(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def load(path: Path) -> dict[str, Any]:
    """A file's own keys over those of the file that its defaults name."""
    data = yaml.safe_load(path.read_text()) or {}
    below: dict[str, Any] = {}
    for item in data.pop("defaults", []):
        if isinstance(item, str) and item != "_self_":
            below |= load(path.with_name(f"{item}.yaml"))
    return {**below, **data}


def class_of(path: Path) -> Any:
    return find_class(load(path)["_target_"], path.parent.name, identity(path))


def part_of(trial: Any, group: str) -> Any:
    return trial.techniques[0] if group == "technique" else getattr(trial, group)


def metrics() -> list[tuple[str, Metric]]:
    owners = {class_of(path) for path in PARTS if path.parent.name in ("meters", "workload")}
    return [(owner.__name__, metric) for owner in owners for metric in owner.metrics]


def test_every_group_of_the_configuration_has_files():
    assert {path.parent.name for path in FILES} == {path.name for path in CONF.iterdir() if path.is_dir()} & set(GROUPS)
    assert {path.parent.name for path in PARTS} == set(KINDS)


@pytest.mark.parametrize("group", sorted(set(KINDS) - {"meters"}))
def test_every_option_composes_and_becomes_a_trial(group: str, trials_of: Callable[..., list[Any]]):
    paths = {path.stem: path for path in PARTS if path.parent.name == group}
    trials = trials_of("device=cpu", f"{group}={','.join(paths)}")
    parts = [part_of(trial, group) for trial in trials]
    assert {part.name for part in parts} == set(paths)
    for part in parts:
        data = load(paths[part.name])
        assert (part.target, part.changes) == (data.pop("_target_"), ())
        assert {key: part.options[key] for key in data} == data


def test_every_meter_can_be_chosen_alone(trials_of: Callable[..., list[Any]]):
    names = [path.stem for path in PARTS if path.parent.name == "meters"]
    trials = trials_of("device=cpu", f"meters={','.join(f'[{name}]' for name in names)}")
    assert sorted(part.name for trial in trials for part in trial.meters) == names
    assert len(trials) == len(names)


def test_every_protocol_names_every_field_and_becomes_a_trial(trials_of: Callable[..., list[Any]]):
    files = {path.stem: load(path) for path in (CONF / "protocol").glob("*.yaml")}
    for data in files.values():
        assert set(data) == {field.name for field in dataclasses.fields(Protocol)}
    protocols = [trial.protocol for trial in trials_of("device=cpu", f"protocol={','.join(files)}")]
    assert len(protocols) == len(files)
    for data in files.values():
        assert dataclasses.asdict(build(Protocol, data, "protocol")) in protocols


@pytest.mark.parametrize(
    "path", sorted(set((CONF / "sweep").glob("*.yaml")) - {CONF / "sweep" / "none.yaml"}), ids=identity
)
def test_every_sweep_names_trials_that_exist(path: Path, trials_of: Callable[..., list[Any]]):
    trials = trials_of("device=cpu", f"sweep={path.stem}")
    assert len(trials) > 1
    assert len({trial.id for trial in trials}) == len(trials)
    baselines = {(trial.model.label, trial.workload.label) for trial in trials if trial.technique_label == "none"}
    assert {(trial.model.label, trial.workload.label) for trial in trials} == baselines, "every cell needs its baseline"


@pytest.mark.parametrize("path", PARTS, ids=identity)
def test_every_file_names_every_field_of_its_class_with_its_default(path: Path):
    found, data = class_of(path), load(path)
    fields = {field.name: field for field in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else {}
    assert set(fields) - set(data) <= LEFT_OUT.get(found.__name__, set())
    assert set(data) - {"_target_"} <= set(fields)
    if path.parent.name == "model" and "architecture" in data:
        return  # a model's file is its architecture
    for name, field in fields.items():
        if name in data and name not in INTENDED.get(path.stem, set()):
            assert data[name] == field.default, f"{name} differs from the class's default"


def test_the_run_section_names_every_setting_but_the_command():
    section = yaml.safe_load((CONF / "trial.yaml").read_text())["run"]
    missing = {field.name for field in dataclasses.fields(Settings)} - set(section)
    assert missing <= {"order_seed", "command"}
    assert build(Settings, section, "run") == Settings()


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name in ("technique", "meters")], ids=identity)
def test_the_package_in_the_first_line_equals_the_files_place(path: Path):
    assert path.read_text().splitlines()[0] == f"# @package {path.parent.name}.{path.stem}"


@pytest.mark.parametrize("path", sorted((CONF / "technique").glob("*.yaml")), ids=identity)
def test_every_technique_says_where_it_comes_from(path: Path):
    found = class_of(path)
    assert re.fullmatch(r"[a-z_]+", found.family)
    assert (found.__doc__ or "").strip()
    if path.stem != "none":
        assert moments(found()), "a technique acts in at least one moment"
        assert found.library
        assert found.paper or found.library != "this harness"


def test_only_the_baseline_acts_in_no_moment():
    idle = [path.stem for path in sorted((CONF / "technique").glob("*.yaml")) if not moments(class_of(path)())]
    assert idle == ["none"]


def test_a_techniques_file_lies_in_its_familys_folder():
    for path in (CONF / "technique").glob("*.yaml"):
        found = class_of(path)
        if path.stem != "none":
            assert found.__module__.split(".")[2] == found.family


def test_every_metric_ends_in_a_unit_and_says_what_it_means():
    for owner, metric in metrics():
        assert metric.unit in UNITS, owner
        assert metric.meaning.strip(), metric.name
        assert metric.better in ("lower", "higher", "neither"), metric.name


def test_a_metric_has_one_owner_and_one_meaning():
    seen: dict[str, set[tuple[str, str]]] = {}
    for _, metric in metrics():
        seen.setdefault(metric.name, set()).add((metric.meaning, metric.better))
    assert {name: found for name, found in seen.items() if len(found) > 1} == {}
    counted = Counter(m.name for path in (CONF / "meters").glob("*.yaml") for m in class_of(path).metrics)
    assert [name for name, count in counted.items() if count > 1] == []
    of_workloads = {m.name for path in (CONF / "workload").glob("*.yaml") for m in class_of(path).metrics}
    assert not of_workloads & set(counted)


def test_an_estimate_says_so_in_its_name():
    estimated = [metric for _, metric in metrics() if "codecarbon" in metric.meaning or "grid" in metric.meaning]
    assert len(estimated) >= 3
    assert [metric.name for metric in estimated if "_estimated_" not in metric.name] == []


@pytest.mark.parametrize("name", ["latency", "latency_second", "seconds", "peak_kilobytes"])
def test_a_name_without_a_unit_is_refused(name: str):
    with pytest.raises(ValueError, match="unit"):
        assert Metric(name, "").unit


def test_every_workload_reaches_known_moments_only():
    for path in (CONF / "workload").glob("*.yaml"):
        found = class_of(path)
        assert issubclass(found, Workload)
        assert found.moments <= {name for name in vars(Technique) if not name.startswith("_")}
