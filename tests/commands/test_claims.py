"""Claims of papers against rows made by hand: each verdict, each reason why there is none, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import main
from harness.commands.claims import WIDTH, read_claims, show
from harness.errors import UserError
from harness.plan.config import config_folder
from harness.report.claims import Claim, Judgement, judged
from harness.report.frame import NUMBERS, frame_of, newest
from harness.rows.schema import flatten, schema_of
from harness.rows.store import Results, write_row
from harness.stats.separation import ASSUMED_SCATTER, separations

CONF = Path(__file__).parents[2] / "conf"
LATENCY, MEMORY, QUALITY = "latency_p50_seconds", "peak_allocated_bytes", "quality_bits_per_byte"
ENERGY, POWER = "gpu_energy_per_token_joules", "gpu_power_mean_watts"


def row(technique: str, seed: int = 0, **columns: Any) -> dict[str, Any]:
    """A measured row of one technique on one board; `length` and `width` are options of workload and model."""
    length, width = columns.pop("length", 512), columns.pop("width", 8)
    part = {"changes": [], "target": "harness.shelf.train_step.Class"}
    trial = {
        "model": {"name": "m", "options": {"width": width}, **part},
        "workload": {"name": "train_step", "options": {"sequence_length": length}, **part},
        "corpus": {"name": "c", "options": {}, **part},
        "techniques": [{"name": name, "options": {}, **part} for name in technique.split("+")],
        "protocol": {},
        "meters": [],
        "device": "cpu",
        "seed": seed,
        "content": {},
    }
    name = f"{technique}-{length}-{width}"
    return {
        "row_id": f"{name}-{seed}",
        "trial_id": f"{name}-{seed}",
        "config_id": name,
        "technique": technique,
        "seed": seed,
        "status": "ok",
        "model": "m",
        "workload": "train_step",
        "corpus": "c",
        "device_name": "box",
        "started_at": f"2026-01-01T00:00:{seed:02d}",
        "trial_json": json.dumps(trial),
        "reasons": {},
        "facts": {},
        "flags": [],
        "latency_spread_ratio": 0.01,
        **columns,
    }


def runs(technique: str, column: str, values: Sequence[float | None], **columns: Any) -> list[dict[str, Any]]:
    return [row(technique, seed, **{column: value}, **columns) for seed, value in enumerate(values)]


def verdict(claim: Claim, rows: list[dict[str, Any]]) -> Judgement:
    flat = [flatten(item) for item in rows]
    tables = [pa.Table.from_pylist([item], schema=schema_of(item)) for item in flat]
    return judged(claim, newest(frame_of(pa.concat_tables(tables, promote_options="permissive"))))


def claim(metric: str = LATENCY, expect: Any = "less", **options: Any) -> Claim:
    return Claim("X1", "a paper", "A is better than B", "a", "b", ["train_step"], metric, expect, **options)


FIVE = (1.0, 1.01, 0.99, 1.02, 0.98)
TWICE = tuple(2.0 * value for value in FIVE)


@pytest.mark.parametrize(
    ("a", "expect", "wanted"),
    [
        (TWICE, "more", "confirmed"),
        (TWICE, "less", "refuted"),
        (TWICE, [1.5, 2.5], "confirmed"),
        (TWICE, [2.5, None], "refuted"),
        (TWICE, [None, 1.5], "refuted"),
        (FIVE, [0.95, 1.05], "confirmed"),
        ((2.0, 0.5, 1.5, 0.7, 1.0), "less", "cannot tell"),
        ((2.0, 0.5, 1.5, 0.7, 1.0), [0.9, 1.1], "cannot tell"),
    ],
)
def test_five_runs_each_decide_as_far_as_they_agree(a: Sequence[float], expect: Any, wanted: str):
    found = verdict(claim(expect=expect), [*runs("a", LATENCY, a), *runs("b", LATENCY, FIVE[::-1])])
    assert found.verdict == wanted
    assert found.shown is not None
    assert found.shown.runs == 5
    ratios = [math.log(x / y) for x, y in zip(a, FIVE[::-1], strict=True)]
    assert found.shown.ratio == pytest.approx(math.exp(sum(ratios) / 5))


@given(st.lists(st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)), min_size=1, max_size=6))
def test_a_direction_is_told_exactly_where_the_report_tells_it(times: list[tuple[float, float]]):
    own, other = zip(*times, strict=True)
    values = [{float(seed): math.log(each) for seed, each in enumerate(side)} for side in (own, other)]
    sign = separations(values, [ASSUMED_SCATTER] * 2)[0][1]
    found = verdict(claim(), [*runs("a", LATENCY, own), *runs("b", LATENCY, other)])
    assert found.verdict == {-1: "confirmed", 0: "cannot tell", 1: "refuted"}[sign] or own == other


def test_one_run_each_is_trusted_as_far_as_processes_are_assumed_to_scatter():
    def once(seconds: float) -> str:
        return verdict(claim(), [row("a", latency_p50_seconds=seconds), row("b", latency_p50_seconds=1.0)]).verdict

    assert (once(0.9), once(0.5)) == ("cannot tell", "confirmed")


def test_memory_counts_beyond_a_hundredth_and_equal_memory_refutes_a_saving():
    def memory(ratio: float) -> Judgement:
        return verdict(claim(MEMORY), [*runs("a", MEMORY, [1e6 * ratio] * 3), *runs("b", MEMORY, [1e6] * 3)])

    assert (memory(0.98).verdict, memory(1.0).verdict, memory(0.995).verdict) == ("confirmed", "refuted", "refuted")
    assert "equal within 1%" in memory(1.0).reason


def test_a_single_run_of_quality_stands_on_its_windows_error():
    def quality(a: float, error: float | None) -> str:
        rows = [
            row(name, quality_bits_per_byte=value, quality_standard_error_bits_per_byte=error)
            for name, value in (("a", a), ("b", 2.0))
        ]
        return verdict(claim(QUALITY), rows).verdict

    assert (quality(1.5, 0.05), quality(1.95, 0.05), quality(1.5, None)) == ("confirmed", "cannot tell", "cannot tell")


def test_counts_are_exact_from_one_run_on():
    rows = [row("a", parameter_count=70), row("b", parameter_count=100)]
    assert verdict(claim("parameter_count", [0, 0.72]), rows).verdict == "confirmed"
    assert verdict(claim("parameter_count", [0, 0.69]), rows).verdict == "refuted"


def test_only_runs_of_one_seed_are_compared():
    rows = [
        *runs("a", LATENCY, [0.5, 0.5, 0.5]),
        row("b", 1, latency_p50_seconds=1),
        row("b", 7, latency_p50_seconds=1),
    ]
    found = verdict(claim(), rows)
    assert found.shown is not None
    assert found.shown.runs == 1
    lonely = verdict(claim(), [row("a", 0, latency_p50_seconds=1), row("b", 1, latency_p50_seconds=1)])
    assert (lonely.verdict, lonely.reason) == ("cannot tell", "a and b have no seed in common")


BOTH = [row("a", latency_p50_seconds=0.5, parameter_count=100), row("b", latency_p50_seconds=1, parameter_count=100)]


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([BOTH[1]], {}, "no rows of a on train_step"),
        ([BOTH[0], row("a+b", latency_p50_seconds=1)], {}, "no rows of b on train_step"),
        ([BOTH[0], row("b", status="oom", reason="out of memory")], {}, "b is oom: out of memory"),
        ([BOTH[0], row("b", latency_p50_seconds=1, flags=["mfu_ratio is 2"])], {}, "flagged: mfu_ratio is 2"),
        ([BOTH[0], row("b", latency_p50_seconds=1, width=16)], {}, "not measured side by side"),
        ([BOTH[0], row("b", latency_p50_seconds=1, device_name="other")], {}, "not measured side by side"),
        (BOTH, {"where": {"workload.sequence_length": [4096, None]}}, "sequence_length from 4096"),
        (BOTH, {"where": {"workload.sequence_length": [None, 256]}}, "sequence_length up to 256"),
        (BOTH, {"equal": ["active_parameter_count"]}, "have no active_parameter_count"),
        (
            [BOTH[0], row("b", latency_p50_seconds=1, parameter_count=120)],
            {"equal": ["parameter_count"]},
            "sizes are not matched: parameter_count 100 against 120",
        ),
        ([row(name, reasons={LATENCY: "broke"}, latency_p50_seconds=None) for name in "ab"], {}, "of a: broke"),
    ],
)
def test_what_cannot_be_told_says_why(rows: list[dict[str, Any]], options: dict[str, Any], words: str):
    found = verdict(claim(**options), rows)
    assert found.verdict == "cannot tell"
    assert words in found.reason


@pytest.mark.parametrize("parameters", [100, 100.9])
def test_matched_sizes_within_a_hundredth_are_compared(parameters: float):
    rows = [BOTH[0], row("b", latency_p50_seconds=1, parameter_count=round(parameters))]
    assert verdict(claim(equal=["parameter_count"]), rows).verdict == "confirmed"


def test_power_does_not_stand_for_energy():
    no_energy: dict[str, Any] = {POWER: 300.0, ENERGY: None}
    rows = [row(name, reasons={ENERGY: "no counter"}, **no_energy) for name in "ab"]
    assert verdict(claim(ENERGY), rows).reason.endswith("no counter; power is there, but power is not energy")


def test_boards_that_disagree_decide_nothing():
    rows = [
        row(name, latency_p50_seconds=seconds, width=width)
        for name, width, seconds in (("a", 8, 0.5), ("b", 8, 1), ("a", 16, 2), ("b", 16, 1))
    ]
    found = verdict(claim(), rows)
    assert found.verdict == "cannot tell"
    assert "boards or variants disagree" in found.reason
    assert {item.verdict for item in found.evidence} == {"confirmed", "refuted"}
    agreeing = [item for item in rows if '"width": 8' in item["trial_json"]]
    assert verdict(claim(), agreeing).verdict == "confirmed"


def test_what_is_matched_is_compared_with_what_is_matched_alike():
    plain = {"none": 1.0, "a": 0.5, "b": 1.0}
    rows = [row(name, latency_p50_seconds=seconds) for name, seconds in plain.items()]
    for name in "ab":
        other = row(name, latency_p50_seconds=2 * plain[name])
        trial = {**json.loads(other["trial_json"]), "match": "parameters"}
        own = {key: f"{other[key]} matched" for key in ("row_id", "trial_id", "config_id", "technique")}
        rows.append({**other, **own, "trial_json": json.dumps(trial)})
    found = verdict(claim(), rows)
    assert found.verdict == "confirmed"
    assert [item.ratio for item in found.evidence] == pytest.approx([0.5, 0.5])
    with_baseline = verdict(Claim("X", "paper", "words", "a", "none", ["train_step"], LATENCY), rows)
    assert [item.ratio for item in with_baseline.evidence] == pytest.approx([0.5, 1.0])


def test_a_newer_row_of_the_same_trial_replaces_the_older():
    older = row("a", latency_p50_seconds=2.0, row_id="older", started_at="2025-01-01T00:00:00")
    assert verdict(claim(), [older, *BOTH]).verdict == "confirmed"


def test_an_untestable_claim_is_printed_as_such():
    found = verdict(Claim("X", "paper", "words", untestable="needs two machines"), BOTH)
    assert (found.verdict, found.reason) == ("untestable", "needs two machines")


@pytest.mark.parametrize("options", [{}, {"a": "x", "b": "y", "workloads": ["w"]}, {"untestable": "no", "expect": [1]}])
def test_a_claim_that_says_too_little_is_refused(options: dict[str, Any]):
    with pytest.raises(ValueError, match=r"give a, b|two ends"):
        Claim("X", "paper", "words", **options)


# What claims may name: options of this folder, and columns of rows.
CLAIMS = read_claims()
WORKLOADS = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "workload").glob("*.yaml")}
COLUMNS = {
    *NUMBERS,
    "active_parameter_count",
    "token_forward_flops",
    "step_tokens_count",
    "expert_visits_per_token_count",
}


@pytest.mark.parametrize("each", CLAIMS, ids=lambda each: each.id)
def test_a_claim_names_what_there_is(each: Claim):
    assert each.source
    assert not each.words.endswith(".")
    if each.untestable:
        return
    assert each.metric in COLUMNS
    assert set(each.equal) <= COLUMNS
    for key in each.where:
        head, _, option = key.partition(".")
        assert head == "workload"
        assert all(option in WORKLOADS[name] for name in each.workloads if name in WORKLOADS)


def test_claims_are_of_both_kinds_of_source_and_each_number_is_there():
    ids = {each.id for each in CLAIMS}
    numbers = {int("".join(filter(str.isdigit, name))) for name in ids if name.startswith("E")}
    assert numbers == {*range(1, 18), *range(35, 40)}
    papers = {int("".join(filter(str.isdigit, name))) for name in ids if name.startswith("P")}
    assert papers == {7, 11, 26, 37, 47, 51, 59, 61, 65, 73, 86, 96}


def test_two_claims_of_one_name_are_refused(tmp_path: Path):
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "own.yaml").write_text("- {id: E3, source: s, words: w, untestable: because}\n")
    with pytest.raises(UserError, match="two claims are called 'E3'"):
        read_claims(str(tmp_path))


def test_a_claim_with_a_wrong_key_is_named(tmp_path: Path):
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "own.yaml").write_text("- {id: Z1, source: s, words: w, metrics: x}\n")
    with pytest.raises(UserError, match=r"own\.yaml: claim Z1: unknown key 'metrics'"):
        read_claims(str(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = (("gqa", 1.0), ("mqa", 1.0), ("moe", 1.5), ("none", 1.0))
    for technique, seconds in names:
        for item in runs(technique, LATENCY, [seconds * value for value in FIVE]):
            write_row(Results(tmp_path), item)
    return tmp_path


def test_the_command_prints_a_line_a_claim(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["claims", "--results", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len([line for line in lines if line.split(" ")[0] in {each.id for each in CLAIMS}]) == len(CLAIMS)
    by_id = {line.split(" ")[0]: line for line in lines if line}
    assert "confirmed" in by_id["E6"]
    assert "1x (1 to 1), n=5" in by_id["E6"]
    assert "confirmed" in by_id["E12"]
    assert "1.5x" in by_id["E12"]
    assert "untestable" in by_id["E39"]


def test_the_command_gives_everything_to_machines(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["claims", "--json", "--results", str(folder)]) == 0
    found = {item["id"]: item for item in json.loads(capsys.readouterr().out)}
    assert found["E12"]["verdict"] == "confirmed"
    assert found["E12"]["evidence"][0]["ratio"] == pytest.approx(1.5)
    assert found["E3"]["reason"].startswith("no rows of")


def test_a_folder_without_rows_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["claims", "--results", str(tmp_path / "absent")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_every_line_fits_whatever_is_claimed(row_of_claim: Callable[[str], Judgement]):
    text = show([row_of_claim("x" * 300), row_of_claim("short")])
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.fixture
def row_of_claim() -> Callable[[str], Judgement]:
    def make(words: str) -> Judgement:
        return Judgement(Claim("X", "paper", words, untestable=words), "untestable", words, [])

    return make


def test_claims_name_techniques_that_there_are():
    known = {path.stem for path in (config_folder() / "technique").glob("*.yaml")}
    named = {name for claim in read_claims() if not claim.untestable for name in (claim.a, claim.b)}
    assert {part for name in named for part in name.split("+")} <= known
