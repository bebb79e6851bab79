"""One size of a changed architecture is set so that it costs what the untouched one does; else the trial says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.interfaces import Model, Technique, moments
from harness.models.matching import TOLERANCE, Matching, nearest, resized, size_of
from harness.models.trained import Trained
from harness.plan.building import make, make_part, skip_reason
from harness.plan.config import config_folder
from harness.run.costs import cost_columns, costs_of
from harness.techniques.attention.grouped_query import GroupedQuery
from harness.techniques.moe.mixture import Mixture
from harness.techniques.peft.lora import Lora

MQA, GQA = GroupedQuery(1), GroupedQuery(2)


@dataclass(frozen=True)
class Sets(Technique):
    """Sets sizes, for what no technique does."""

    sizes: dict[str, Any]

    family: ClassVar = "test"

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        return {**architecture, **self.sizes}


class Wider(Sets):
    width_field: ClassVar = "head_dim"
    cache_field: ClassVar = ("head_dim",)


def matched(context_of: Callable[..., Any], quantity: str, *techniques: Technique, **architecture: Any) -> Any:
    """A context whose match is of one quantity, in sequences of 64."""
    context = context_of(*techniques, **architecture)
    return replace(context, match=context.model.matching(quantity, techniques, 64))


def share(context: Any, name: str) -> float:
    """Of the untouched model's cost."""
    own, untouched = (costs_of(context.model.empty(each), 64) for each in (context.configuring, ()))
    return getattr(own, name) / getattr(untouched, name)


def test_the_heads_that_mqa_saves_become_width(context_of: Callable[..., Any]):
    # Three of four heads of keys and values are 2 x 128 x 96 weights of a layer: 64 more columns of three matrices.
    context = matched(context_of, "parameters", MQA)
    assert context.model.architecture_facts(context.configuring)["intermediate_size"] == 448 + 2 * 128 * 96 // (3 * 128)
    assert context.match.evidence(None) == "intermediate_size 448 -> 512; parameters 1,016,960, untouched 1,016,960"
    loaded = context.model.load(context)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 1_016_960


@pytest.mark.parametrize(
    ("quantity", "name"),
    [("parameters", "parameters"), ("active_parameters", "active_parameters"), ("flops", "forward_flops")],
)
@pytest.mark.parametrize("technique", [MQA, GQA, Mixture(8, 2), Mixture(4, 1)], ids=repr)
def test_every_quantity_comes_within_one_percent(
    quantity: str, name: str, technique: Technique, context_of: Callable[..., Any]
):
    context = matched(context_of, quantity, technique)
    assert skip_reason(context, ["it"]) is None
    assert abs(share(context, name) - 1) <= TOLERANCE
    assert context.match.found().share == pytest.approx(share(context, name))
    changed = context.model.architecture_facts(context.configuring)
    assert {key for key, value in technique.configure(context.model.architecture_facts(())).items()} == set(changed)
    assert changed["intermediate_size"] % 8 == 0


def test_a_cache_is_matched_by_depth(context_of: Callable[..., Any]):
    context = matched(context_of, "kv_bytes", MQA)
    assert context.model.architecture_facts(context.configuring)["num_hidden_layers"] == 16
    assert share(context, "cache_bytes") == 1


def test_a_field_that_a_technique_names_comes_first(context_of: Callable[..., Any]):
    context = matched(context_of, "kv_bytes", Wider({"num_key_value_heads": 2, "head_dim": 32}))
    assert context.model.architecture_facts(context.configuring)["head_dim"] == 64
    context = matched(context_of, "parameters", Wider({"intermediate_size": 320, "head_dim": 32}))
    changed = context.model.architecture_facts(context.configuring)
    # 3 x 128 x 128 weights of a layer go from the feed-forward layer to four matrices of 128 x 4 heads.
    assert (changed["head_dim"], changed["intermediate_size"]) == (32 + 24, 320)


def test_a_width_moves_in_single_steps_where_eight_are_too_many(context_of: Callable[..., Any]):
    shape = {"hidden_size": 32, "intermediate_size": 16}
    context = matched(context_of, "parameters", GQA, **shape)
    # Two of four heads of width 8 are 2 x 32 x 16 weights of a layer, 10 2/3 columns of three matrices.
    assert context.model.architecture_facts(context.configuring)["intermediate_size"] == 27


def test_what_costs_the_same_stays_as_it_is(context_of: Callable[..., Any]):
    context = matched(context_of, "parameters", Sets({"rms_norm_eps": 1e-6}))
    assert context.match.found().field == ""
    assert context.model.architecture_facts(context.configuring) == context.model.architecture_facts(context.techniques)
    assert "no size" in context.match.evidence(None)


def test_a_trial_without_a_match_is_skipped_with_the_nearest(context_of: Callable[..., Any]):
    # Heads of 24 in place of 32 keep 3/4: of the depths, 5 layers come nearest with 15/16.
    context = matched(context_of, "kv_bytes", Sets({"head_dim": 24}))
    reason = skip_reason(context, ["narrow"])
    assert reason is not None
    assert "no size comes within 1% of the untouched model's 4,096" in reason
    assert "num_hidden_layers 4 -> 5 with 3,840 (93.8%)" in reason


def test_what_has_no_closed_form_cannot_be_matched(context_of: Callable[..., Any]):
    context = matched(context_of, "flops", MQA, model_type="mistral", sliding_window=16)
    assert "no closed form" in (skip_reason(context, ["mqa"]) or "")


def test_what_cannot_be_built_is_left_to_the_models_check(context_of: Callable[..., Any]):
    context = matched(context_of, "flops", Sets({"num_key_value_heads": 3}))
    assert skip_reason(context, ["three"]) is None
    with pytest.raises(ValueError, match="num_key_value_heads 3"):
        context.model.check(context)


def test_weights_that_are_trained_here_are_those_of_the_matched_model(context_of: Callable[..., Any]):
    context = matched(context_of, "parameters", MQA)
    model = Trained(architecture=context.model.architecture)
    assert model.ingredients(context)["architecture"]["intermediate_size"] == 512
    assert model.ingredients(replace(context, match=None))["architecture"]["intermediate_size"] == 448


@given(
    st.integers(1, 500),
    st.sampled_from([1, 8]),
    st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    st.floats(0, 1e4),
    st.floats(0, 1),
)
def test_the_search_finds_what_trying_every_size_would(start: int, step: int, power: float, fixed: float, place: float):
    def quantity(size: int) -> float:
        return fixed + size**power

    first = max(1, round(start / step))
    sizes = range(step, min(64 * first, 2000) * step + 1, step)
    target = quantity(sizes[0]) + place * (quantity(sizes[-1]) - quantity(sizes[0]))
    found, reached = nearest(quantity, start, target, step)
    assert found % step == 0
    assert reached == quantity(found)
    assert abs(reached - target) <= min(abs(quantity(size) - target) for size in sizes) * (1 + 1e-9)


def test_the_search_ends_where_a_size_has_no_bearing_or_cannot_be_built():
    tried: list[int] = []

    def flat(size: int) -> float:
        tried.append(size)
        return 5.0

    assert nearest(flat, 64, 100.0, 8) == (64, 5.0)
    assert len(tried) == 2

    def limited(size: int) -> float:
        if size > 100:
            raise ValueError("too wide")
        return size

    assert nearest(limited, 64, 1000.0, 8) == (64, 64)


def test_a_dot_leads_into_parts():
    architecture = {"feed_forward": [{"width": 4}, {"kind": "other"}, {"width": 6}], "mixer": {"rank": True}, "a": 3}
    assert size_of(architecture, "feed_forward.width") == 4
    assert resized(architecture, "feed_forward.width", 8)["feed_forward"] == [
        {"width": 8},
        {"kind": "other"},
        {"width": 8},
    ]
    assert architecture["feed_forward"][0] == {"width": 4}
    assert [size_of(architecture, field) for field in ("a", "mixer.rank", "mixer.width", "none")] == [3] + [None] * 3


def test_columns_tell_the_model_and_the_untouched_one(context_of: Callable[..., Any]):
    context = context_of(MQA)
    values, reasons = cost_columns(context, context.model.load(context))
    assert reasons == {}
    assert (values["active_parameter_count"], values["baseline_parameter_count"]) == (918_656, 1_016_960)
    # 2 FLOPs for each weight but the embeddings', and two products of 128 over half of the 64 positions, in 4 layers.
    assert values["baseline_token_forward_flops"] == 2 * (1_016_960 - 256 * 128 - 9 * 128) + 4 * 4 * 128 * 65 / 2
    assert (values["token_cache_bytes"], values["baseline_token_cache_bytes"]) == (1024, 4096)
    assert values["token_context_count"] == 64
    plain, _ = cost_columns(context_of(Lora()), context.model.load(context))
    assert plain["active_parameter_count"] == plain["baseline_active_parameter_count"]


def test_a_model_without_shapes_has_reasons_for_every_column(context_of: Callable[..., Any]):
    values, reasons = cost_columns(replace(context_of(), model=Model()), None)
    assert set(values.values()) == {None}
    assert set(values) == set(reasons)
    assert {"active_parameter_count", "baseline_parameter_count", "baseline_token_cache_bytes"} < set(values)


def test_one_search_serves_a_process(context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    context = matched(context_of, "parameters", GQA, rms_norm_eps=2e-5)
    first = context.match.found()
    monkeypatch.setattr(Matching, "_quantity", lambda *_: pytest.fail("searched again"))
    assert matched(context_of, "parameters", GQA, rms_norm_eps=2e-5).match.found() == first


#: Its width moves by whole heads, which are half of what there is at this size; a layer is less.
BY_DEPTH = {"mamba2"}
#: One number more for each of 32 experts is a twentieth of the tiny model, so that the nearest lies 1.5% off.
COARSE = {"moe_fine", "moe_shared"}


@pytest.mark.parametrize("path", sorted((config_folder() / "technique").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_architecture_can_have_the_baselines_parameters(path: Path, context_of: Callable[..., Any]):
    technique = make("technique", make_part("technique", path.stem, yaml.safe_load(path.read_text())))
    if "configure" not in moments(technique):
        pytest.skip("changes no architecture")
    found = matched(context_of, "parameters", technique).match.found()
    assert found is not None
    assert found.near or path.stem in COARSE, found
    assert found.share == pytest.approx(1, abs=0.02), found
    assert (found.field == "num_hidden_layers") == (path.stem in BY_DEPTH), found
