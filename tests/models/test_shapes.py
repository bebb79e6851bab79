"""Every model configuration names real fields and has the parameter count that its checkpoint publishes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import RopeParameters

FOLDER = Path(__file__).parents[2] / "conf" / "model"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if "\n  model_type:" in path.read_text(encoding="utf-8"))

#: Shapes of this project: the count follows from the shape and is pinned here.
OWN = {
    "tiny_llama": 1_016_960,
    "small_llama": 3_344_640,
    "medium_llama": 127_823_616,
}
#: Shapes of this project that are meant for a processor.
FULL_PRECISION = ("tiny_llama", "small_llama")

#: Exact counts, as the published checkpoints state them; tied weights count once.
EXACT = {
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_72b": 72_706_203_648,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "llama3_1_8b": 8_030_261_248,
    "llama3_1_70b": 70_553_706_496,
    "mistral_7b": 7_248_023_552,
    "mistral_small_24b": 23_572_403_200,
    "olmoe_1b_7b": 6_919_161_856,
    "mixtral_8x7b": 46_702_792_704,
    "deepseek_v2_lite": 15_706_484_224,
    "phi_3_5_mini": 3_821_079_552,
    "phi_4": 14_659_507_200,
}

#: Models of which only a rounded size is published; the count must lie within 2% of it.
ROUNDED: dict[str, float] = {}


def load(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def test_the_folder_and_the_tables_name_the_same_models():
    assert sorted([*OWN, *EXACT, *ROUNDED]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_form(name):
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "parameters" in text.splitlines()[0]
    model = load(name)
    assert list(model) == ["_target_", "architecture", "dtype"]
    assert model["_target_"] == "harness.models.hf.HF"
    assert model["dtype"] == ("float32" if name in FULL_PRECISION else "bfloat16")


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_a_field_of_the_configuration_class(name):
    architecture = load(name)["architecture"]
    known = {field.name for field in fields(CONFIG_MAPPING[architecture["model_type"]])}
    assert set(architecture) - known - {"model_type"} == set()
    assert set(architecture["rope_parameters"]) - set(RopeParameters.__annotations__) == set()


@pytest.mark.parametrize("name", NAMES)
def test_parameter_count(name):
    architecture = load(name)["architecture"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture))
    assert all(parameter.is_meta for parameter in model.parameters())
    count = sum(parameter.numel() for parameter in model.parameters())
    if name in ROUNDED:
        assert count == pytest.approx(ROUNDED[name], rel=0.02)
    else:
        assert count == (OWN | EXACT)[name]
