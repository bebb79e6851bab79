"""Pretraining: the budget, the schedule, the learning curve, and that what is learned is the next token."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.corpora.text import Text
from harness.interfaces import Corpus, Technique
from harness.protocol import Protocol
from harness.run.measure import measure
from harness.techniques.attention.grouped_query import GroupedQuery
from harness.techniques.zeroth_order.mezo import MeZO
from harness.workloads import step_law
from harness.workloads.pretrain import Pretrain, schedule

SMALL: dict[str, Any] = {
    "sequence_length": 16,
    "batch_tokens": 32,
    "budget_tokens": 640,
    "learning_rate": 1e-3,
    "evaluations": 4,
    "held_out_windows": 4,
}


@dataclass(frozen=True)
class Cycle(Corpus):
    """A text in which each byte decides the next."""

    def load(self) -> Text:
        one = bytes(range(48)) * 200
        return Text(one, one, "none", 2)


@dataclass(frozen=True)
class Descent(Technique):
    """Plain gradient descent at a fifth of the learning rate; `on_device` keeps it in a tensor."""

    on_device: bool = False

    family: ClassVar = "test"

    def optimizer(self, parameters: list[Any], learning_rate: float) -> Any:
        made = torch.optim.SGD(parameters, lr=learning_rate / 5)
        if self.on_device:
            made.param_groups[0]["lr"] = torch.tensor(learning_rate / 5)
        return made


@dataclass(frozen=True)
class Watched(MeZO):
    """Remembers the learning rates that it was given."""

    seen: ClassVar[list[float]] = []

    def training_step(self, model: Any, batch: Any, learning_rate: float, seed: int) -> Any:
        self.seen.append(learning_rate)
        return super().training_step(model, batch, learning_rate, seed)


def session_of(
    context_of: Callable[..., Any], *techniques: Technique, corpus: Any = None, seed: int = 0, **changed: Any
) -> Any:
    workload = Pretrain(**{**SMALL, **changed})
    context = context_of(*techniques, workload=workload, num_hidden_layers=1)
    context = replace(context, corpus=corpus or context.corpus, seed=seed)
    return workload.prepare(context.model.load(context), context)


def run(session: Any) -> Any:
    for _ in range(session.fixed_steps()):
        session.before_step()
        session.step()
    return session


def rates(session: Any) -> list[float]:
    """The first group's learning rate in each step."""
    found = []
    for _ in range(session.fixed_steps()):
        session.before_step()
        session.step()
        found.append(float(session.optimizer.param_groups[0]["lr"]))
    return found


def test_what_is_learned_is_the_next_token(context_of: Callable[..., Any]):
    """Labels shifted twice would train the model for the token after, and the held-out loss would only grow."""
    session = session_of(context_of, corpus=Cycle(), budget_tokens=100 * 128, batch_tokens=128, learning_rate=3e-3)
    outcome = run(session).outcome()
    assert outcome["quality_bits_per_byte"] < 0.05
    assert session.samples()["train_loss_nats"][-1] < 0.05
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert session.model(input_ids=ids).logits.argmax(-1).tolist() == [list(range(1, 17))]


def test_the_first_loss_is_that_of_a_guess(context_of: Callable[..., Any]):
    session = run(session_of(context_of))
    assert session.samples()["train_loss_nats"][0] == pytest.approx(math.log(256), abs=0.3)


def test_all_techniques_see_the_same_batches_at_one_seed(context_of: Callable[..., Any]):
    def batches(*techniques: Technique, seed: int = 0) -> list[Any]:
        session, found = session_of(context_of, *techniques, seed=seed), []
        for _ in range(4):
            session.before_step()
            found.append(session.batch.clone())
        return found

    plain = batches()
    assert all(map(torch.equal, plain, batches(GroupedQuery(1))))
    assert not any(map(torch.equal, plain, batches(seed=1)))


def test_evaluations_leave_batches_and_learning_alone(context_of: Callable[..., Any]):
    often, seldom = (run(session_of(context_of, evaluations=count)).samples() for count in (10, 1))
    assert often["train_loss_nats"] == seldom["train_loss_nats"]
    assert len(often["curve_tokens_count"]) == 10


def test_parts_of_a_batch_add_up_to_it(context_of: Callable[..., Any]):
    whole, parts = (
        run(session_of(context_of, batch_tokens=80, micro_batch_size=size)).samples()["train_loss_nats"]
        for size in (None, 2)
    )
    assert parts == pytest.approx(whole, rel=1e-4)


def test_the_curve_covers_the_budget_and_ends_with_the_outcome(context_of: Callable[..., Any]):
    session = run(session_of(context_of))
    outcome = session.outcome()
    samples = session.samples()
    assert samples["curve_tokens_count"] == [0, 160, 320, 480, 640]
    assert len(samples["train_loss_nats"]) == session.fixed_steps() == 20
    curve = samples["curve_quality_bits_per_byte"]
    assert (curve[0], curve[-1]) == (outcome["quality_before_bits_per_byte"], outcome["quality_bits_per_byte"])
    assert curve[-1] < curve[0]
    assert session.counted() == {"trained_tokens": 640}


def test_no_step_holds_an_evaluation(context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    session = session_of(context_of)
    real = session.quality
    monkeypatch.setattr(session, "quality", lambda: (torch.randn(200, 300) @ torch.randn(300, 300), real())[1])
    result = measure(session, Protocol(), "cpu", [], session.fixed_steps())
    window = result.window
    assert len(result.warmup_seconds) + window.steps == 20
    assert 0 < window.aside_seconds <= window.seconds - sum(window.step_seconds)
    assert window.aside_seconds <= session.facts()["evaluation_seconds"]


@given(st.integers(4, 3000), st.floats(0, 0.9))
def test_the_schedule_rises_to_the_peak_and_falls_to_a_tenth(steps: int, ratio: float):
    shares = [schedule(step, steps, ratio) for step in range(steps)]
    peak = max(0, round(ratio * steps) - 1)
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert max(shares) == pytest.approx(1)
    assert min(shares) > 0
    if steps - round(ratio * steps) > 1:
        assert shares[-1] == pytest.approx(0.1)


def test_adamw_decays_matrices_alone_and_follows_the_schedule(context_of: Callable[..., Any]):
    session = session_of(context_of, warmup_ratio=0.2)
    matrices, vectors = session.optimizer.param_groups
    assert {parameter.ndim for parameter in matrices["params"]} == {2}
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert matrices["betas"] == vectors["betas"] == (0.9, 0.95)
    found = rates(session)
    assert found[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert found[-1] == pytest.approx(1e-4)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_techniques_own_optimizer_is_scheduled_from_its_own_rate(context_of: Callable[..., Any], on_device: bool):
    session = session_of(context_of, Descent(on_device))
    found = rates(session)
    assert max(found) == pytest.approx(2e-4)
    assert found[-1] == pytest.approx(2e-5)
    assert isinstance(session.optimizer.param_groups[0]["lr"], torch.Tensor) == on_device


def test_a_training_step_of_its_own_gets_the_scheduled_rate(context_of: Callable[..., Any]):
    Watched.seen.clear()
    session = run(session_of(context_of, Watched()))
    assert max(Watched.seen) == pytest.approx(1e-3)
    assert Watched.seen[-1] == pytest.approx(1e-4)
    assert session.facts()["training_step"] == "Watched"
    assert len(session.samples()["train_loss_nats"]) == 20


def test_a_budget_of_flops_buys_more_steps_where_they_cost_less(context_of: Callable[..., Any]):
    flops = 2e10
    plain, cheap, forward_only = (
        session_of(context_of, *techniques, budget_tokens=None, budget_flops=flops)
        for techniques in ((), (GroupedQuery(1),), (MeZO(),))
    )
    for session in (plain, cheap, forward_only):
        steps, each = session.fixed_steps(), session.work().model_flops
        assert steps * each <= flops * (1 + 1e-9) < (steps + 1) * each
    assert plain.fixed_steps() < cheap.fixed_steps() < forward_only.fixed_steps()


def test_a_budget_of_flops_needs_a_closed_form(context_of: Callable[..., Any]):
    workload = Pretrain(**{**SMALL, "budget_tokens": None, "budget_flops": 1e9})
    windowed = context_of(workload=workload, model_type="mistral", sliding_window=16)
    assert "closed form" in (workload.skip_reason(windowed) or "")
    assert workload.skip_reason(context_of(workload=workload)) is None
    assert Pretrain(**SMALL).skip_reason(windowed) is None


def test_a_budget_below_a_few_steps_is_refused(context_of: Callable[..., Any]):
    with pytest.raises(ValueError, match="holds 2 steps"):
        session_of(context_of, budget_tokens=64)


def test_the_law_gives_the_papers_numbers():
    """The largest run of its figure 1, 1e9 parameters on 1e11 tokens, by logarithms to base 10 on paper."""
    assert step_law.learning_rate(1e9, 1e11) == pytest.approx(10 ** (math.log10(1.79) - 6.417 + 3.377))
    assert step_law.batch_tokens(1e11) == pytest.approx(10 ** (math.log10(0.58) + 6.281))
    assert 1e6 < step_law.batch_tokens(1e11) < 1.2e6
    assert step_law.beyond(1e9, 1e11) is None
    beyond = step_law.beyond(1e6, 1e6)
    assert beyond is not None
    assert "parameters" in beyond
    assert "tokens" in beyond


def test_the_law_counts_every_parameter_but_the_vocabularys(context_of: Callable[..., Any]):
    for tied, expected in ((False, 1_016_960 - 2 * 256 * 128), (True, 1_016_960 - 2 * 256 * 128)):
        model = context_of(tie_word_embeddings=tied).model.empty(())
        assert step_law.non_embedding_parameters(model) == expected


def test_a_run_by_the_law_says_so_and_that_it_was_not_tuned(context_of: Callable[..., Any]):
    session = session_of(context_of, batch_tokens="step_law", learning_rate="step_law", budget_tokens=4096)
    facts = session.facts()
    assert facts["peak_learning_rate"] == step_law.learning_rate(facts["non_embedding_parameters"], 4096)
    assert facts["batch_sequences"] == round(step_law.batch_tokens(4096) / 16)
    assert (facts["tuning_trials_count"], facts["by_step_law"]) == (0, ["learning_rate", "batch_tokens"])
    assert "extrapolated" in facts["step_law_warning"]
    given_rate = session_of(context_of, batch_tokens="step_law").facts()
    assert given_rate["tuning_trials_count"] != 0
    assert session_of(context_of).facts()["step_law_warning"] is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"budget_flops": 1e9}, "exactly one"),
        ({"budget_tokens": None}, "exactly one"),
        ({"budget_tokens": 48}, "budget_tokens"),
        ({"budget_tokens": None, "budget_flops": 0.0}, "budget_flops"),
        ({"batch_tokens": 24}, "batch_tokens"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"warmup_ratio": 1.0}, "warmup_ratio"),
        ({"evaluations": 0}, "evaluations"),
        ({"sequence_length": 1}, "sequence_length"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
    ],
)
def test_options_that_make_no_run_are_refused(changed: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        Pretrain(**{**SMALL, **changed})


def test_a_row_holds_its_curve_and_what_the_target_took(sweep: Any, quick: Callable[..., list[str]]):
    """From the command line to the row: matched and not, with a target that is met at once and by its own samples."""
    from harness.rows.derived import disagreeing

    options = [f"workload.{key}={value}" for key, value in SMALL.items()]
    done = sweep.run(
        *quick("train_step")[:-3],
        "workload=pretrain",
        *options,
        "workload.target_bits_per_byte=7.5",
        "technique=none,mqa",
        "match=parameters",
        "corpus.maximum_bytes=400000",
        "meters=[latency,energy,utilization]",
    )
    assert done.returncode == 0, done.stderr
    rows = {row["technique"]: row for row in sweep.rows()}
    assert set(rows) == {"none", "mqa match=parameters"}
    for row in rows.values():
        assert (row["status"], row["flags"], disagreeing(row)) == ("ok", [], [])
        assert row["parameter_count"] == row["baseline_parameter_count"]
        times = [*row["warmup_step_seconds"], *row["step_seconds"]]
        assert row["curve_seconds"][-1] == pytest.approx(sum(times))
        place = row["curve_tokens_count"].index(row["tokens_to_target_count"])
        assert row["curve_quality_bits_per_byte"][place] <= 7.5 < min(row["curve_quality_bits_per_byte"][:place])
        assert row["seconds_to_target_seconds"] == row["curve_seconds"][place]
        reasons = json.loads(row["reasons_json"])
        assert reasons["gpu_energy_to_target_joules"] == "no GPU"
        assert row["energy_per_token_estimated_joules"] is None, "evaluations took part of the energy"
        assert "evaluated between the steps" in reasons["energy_per_token_estimated_joules"]
    assert rows["mqa match=parameters"]["match"] == "parameters"
