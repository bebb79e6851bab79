"""What holds the bytes at a step's peak: every part against what is known of it beforehand."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.checks import MEMORY_PARTS
from harness.interfaces import Session, Work
from harness.meters.block_lives import Claimed, Given, Taken, parts_at_peak
from harness.meters.memory_anatomy import Anatomy, _anatomy, _stream, anatomy_of
from harness.meters.memory_formulas import expectations
from harness.meters.memory_owners import find_owners

MEBIBYTE = 2**20


def taken_apart(session: Session) -> Anatomy:
    gc.collect()  # models of other tests would be among the owners
    found = anatomy_of(session, "cpu")
    assert found is not None
    assert set(found.parts) == set(MEMORY_PARTS)
    return found


class Perceptron(Session):
    """Two linear layers without biases, 256 -> 512 -> 256, and Adam; 64 rows a step."""

    def __init__(self, rows: int = 64, optimizer: Any = torch.optim.AdamW) -> None:
        self.model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.ReLU(), nn.Linear(512, 256, bias=False))
        self.optimizer = optimizer(self.model.parameters(), lr=1e-3)
        self.rows, self.parameters = rows, 2 * 256 * 512
        self.step()

    def before_step(self) -> None:
        self.batch = torch.randn(self.rows, 256)

    def step(self) -> None:
        self.before_step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model(self.batch).pow(2).mean().backward()
        self.optimizer.step()

    def work(self) -> Work:
        return Work(samples=self.rows)


def test_a_training_steps_parts_are_those_of_the_formulas():
    # The update's temporaries make the peak here: all gradients are alive, and few activations could be.
    session = Perceptron()
    found, weights = taken_apart(session), 4 * session.parameters
    assert found.parts["weights"] == weights
    assert found.parts["gradient"] == weights
    assert found.parts["optimizer_state"] == pytest.approx(8 * session.parameters, rel=1e-3)
    assert found.parts["unattributed"] == 0
    assert sum(found.parts.values()) == found.peak_bytes


def test_many_rows_make_activations_the_peak():
    rows = 8192
    found = taken_apart(Perceptron(rows))
    result = 4 * rows * 256
    # Kept for the backward pass: the hidden layer after its ReLU, twice as wide as the result, and the result; then
    # what the gradient of the mean square makes on its way, at most five tensors as large as the result.
    assert 3 * result <= found.parts["activation"] <= 8 * result
    assert found.parts["weights"] == 4 * 2 * 256 * 512
    assert found.parts["gradient"] < 4 * 2 * 256 * 512, "not both layers' gradients are there yet"


@pytest.mark.parametrize("rows", [16, 4096])
def test_the_peak_is_the_allocators_own_count(rows: int):
    """Profiled from before the model exists, the allocator's running total misses nothing: an independent count."""
    source = f"""
import time
from torch.profiler import ProfilerActivity, profile
from tests.meters.test_memory_anatomy import Perceptron
from harness.meters.memory_anatomy import anatomy_of
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
    session = Perceptron({rows})
    started = time.time_ns()
    session.step()
left, totals = list(profiler.profiler.kineto_results.experimental_event_tree()), []
while left:
    node = left.pop()
    left += node.children
    if hasattr(node.extra_fields, "total_allocated") and node.start_time_ns >= started:
        totals.append(node.extra_fields.total_allocated)
print(max(totals), anatomy_of(session, "cpu").peak_bytes)
"""
    counted, found = map(int, run_python(source).stdout.split())
    assert found == pytest.approx(counted, rel=1e-3)


def run_python(source: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("names", [(), ("gradient_checkpointing",), ("lora",), ("bf16",), ("mezo",)])
def test_the_tiny_models_parts_sum_to_the_peak(training: Callable[..., Session], names: tuple[str, ...]):
    session: Any = training(*names)
    session.step()
    found = taken_apart(session)
    assert sum(found.parts.values()) == found.peak_bytes
    assert abs(found.parts["unattributed"]) <= 0.02 * found.peak_bytes
    held = session.held_bytes()
    assert found.parts["optimizer_state"] == held.get("optimizer_state_bytes", 0)
    assert found.parts["gradient"] <= held["gradient_bytes"]
    assert found.parts["activation"] > 0
    expected = expectations(find_owners())
    if "mezo" in names:
        assert found.parts["gradient"] == 0
        assert isinstance(expected["expected_optimizer_state_bytes"], str)
    else:
        assert held["optimizer_state_bytes"] == pytest.approx(expected["expected_optimizer_state_bytes"], rel=1e-3)
        assert held["gradient_bytes"] == expected["expected_gradient_bytes"]
    if "lora" in names:
        assert "transformers" in str(expected["expected_weights_bytes"])
    else:
        assert found.parts["weights"] == pytest.approx(expected["expected_weights_bytes"], rel=1e-3)


@pytest.fixture
def training(context_of: Callable[..., Any]) -> Callable[..., Session]:
    """A session of `train_step` on the tiny model with techniques by the name of their YAML."""

    def make(*names: str) -> Session:
        from harness.execute import load
        from harness.techniques.activations.checkpointing import Checkpointing
        from harness.techniques.peft.lora import Lora
        from harness.techniques.quantization.half import Half
        from harness.techniques.zeroth_order.mezo import MeZO
        from harness.workloads.train_step import TrainStep

        known = {"gradient_checkpointing": Checkpointing(), "lora": Lora(), "bf16": Half(), "mezo": MeZO()}
        workload = TrainStep(batch_size=4, sequence_length=32, budget_tokens=4096, held_out_windows=4)
        context = context_of(*(known[name] for name in names), workload=workload)
        return workload.prepare(load(context, names)[0], context)

    return make


def test_checkpointing_saves_activations_and_nothing_else(training: Callable[..., Session]):
    plain, saving = (taken_apart(stepped(training(*names))) for names in ((), ("gradient_checkpointing",)))
    assert saving.parts["activation"] < plain.parts["activation"] / 2
    for part in ("weights", "optimizer_state"):
        assert saving.parts[part] == plain.parts[part]


def stepped(session: Session) -> Session:
    session.step()
    return session


class Scratch(Session):
    """No pass and no owner: a product whose copy of 4 MiB lives only inside the operation."""

    def __init__(self) -> None:
        self.left, self.right = torch.ones(1024, 1024), torch.ones(8, 1024, 1024)

    def step(self) -> None:
        with torch.no_grad():
            torch.einsum("ij,bjk->bik", self.left, self.right.transpose(1, 2))


def test_scratch_is_workspace_and_data_is_other():
    found = taken_apart(Scratch())
    assert found.parts["other"] >= 36 * MEBIBYTE
    assert found.parts["workspace"] >= 32 * MEBIBYTE
    assert found.parts["activation"] == found.parts["weights"] == 0


def test_tied_and_packed_weights_count_as_they_are_stored():
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    from harness.tensors import model_bytes

    class Reads(Session):
        def __init__(self) -> None:
            self.model = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False))
            self.model[1].weight = self.model[0].weight

        def step(self) -> None:
            with torch.no_grad():
                self.model(torch.ones(1, 256))

    session = Reads()
    assert taken_apart(session).parts["weights"] == 256 * 256 * 4
    quantize_(session.model, Int8WeightOnlyConfig())
    assert taken_apart(session).parts["weights"] == model_bytes(session.model) < 256 * 256 * 4


def test_a_growing_cache_is_the_caches_even_where_it_was_replaced_within_the_step():
    from transformers import DynamicCache

    class Grows(Session):
        def before_step(self) -> None:
            self.cache = DynamicCache()

        def step(self) -> None:
            with torch.no_grad():
                for _ in range(4):
                    for layer in range(3):
                        self.cache.update(torch.ones(1, 4, 512, 64), torch.ones(1, 4, 512, 64), layer)

    found = taken_apart(Grows())
    each = 4 * 512 * 64 * 4
    # At the end 3 layers x 4 parts x 2; while the last one grows, its old keys are there beside the new ones.
    assert 23 * each <= found.parts["kv_cache"] <= 27 * each
    assert found.parts["kv_cache"] > 0.8 * found.peak_bytes


def test_a_failing_step_leaves_no_hook_behind():
    from torch.nn.modules import module
    from transformers.cache_utils import DynamicLayer

    class Fails(Perceptron):
        def step(self) -> None:
            if hasattr(self, "batch"):
                raise RuntimeError("no")
            super().step()

    update, hooks = DynamicLayer.update, dict(module._global_forward_pre_hooks)
    session = Fails()
    with pytest.raises(RuntimeError, match="no"):
        anatomy_of(session, "cpu")
    assert DynamicLayer.update is update
    assert dict(module._global_forward_pre_hooks) == hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in session.model.parameters())


SIZES = st.integers(1, 1000)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), SIZES)), max_size=40),
    st.dictionaries(st.integers(0, 5), SIZES),
)
def test_the_peak_is_that_of_a_plain_count(moves: list[tuple[int, int | None]], before: dict[int, int]):
    now, peak = dict(before), sum(before.values())
    stream: list[Any] = []
    for moment, (address, size) in enumerate(moves):
        now.pop(address, None)
        if size is not None:
            now[address] = size
        stream.append(Given(moment, address) if size is None else Taken(moment, address, size, "activation"))
        peak = max(peak, sum(now.values()))
    parts = parts_at_peak({address: (size, "weights") for address, size in before.items()}, stream)
    assert sum(parts.values()) == peak
    assert set(parts) == set(MEMORY_PARTS)
    assert all(size >= 0 for size in parts.values())


@given(SIZES, SIZES, st.sampled_from(["gradient", "kv_cache", "optimizer_state"]))
def test_a_claim_holds_for_the_whole_life_and_no_longer(first: int, second: int, part: str):
    stream = [Taken(0, 7, first, "activation"), Claimed(1, 7, part), Given(2, 7), Taken(3, 7, second, "activation")]
    parts = parts_at_peak({}, stream)
    assert parts[part if first >= second else "activation"] == max(first, second)
    assert sum(parts.values()) == max(first, second)


@given(st.integers(1, 9), st.integers(1, 9))
def test_what_is_gone_before_its_operation_ends_was_scratch(gone: int, end: int):
    parts = parts_at_peak({}, [Taken(0, 1, 100, "activation", end), Given(gone, 1)])
    assert parts["workspace" if gone <= end else "activation"] == 100


def test_what_somebody_claimed_is_no_scratch():
    parts = parts_at_peak({}, [Taken(0, 1, 100, "activation", 9), Claimed(1, 1, "gradient"), Given(2, 1)])
    assert parts["gradient"] == 100
    assert math.isclose(sum(parts.values()), 100)


def node(
    name: str, start: int, end: int, *children: Any, scope: str = "RecordScope.FUNCTION", sequence: int = -1
) -> Any:
    """An operation in the profiler's tree."""
    return SimpleNamespace(
        name=name,
        start_time_ns=start,
        end_time_ns=end,
        children=list(children),
        extra_fields=SimpleNamespace(scope=scope, sequence_number=sequence),
    )


def change(time: int, address: int, size: int, device: str = "cuda") -> Any:
    """A block taken, or given back where its size is negative."""
    fields = SimpleNamespace(alloc_size=size, ptr=address, device=SimpleNamespace(type=device))
    return SimpleNamespace(name="[memory]", start_time_ns=time, end_time_ns=time, children=[], extra_fields=fields)


def test_a_pretended_gpus_stream_is_sorted_into_parts():
    tree = [
        node(
            "memory: forward pass",
            0,
            30,
            node("aten::mm", 1, 10, change(2, 100, 512), change(3, 200, 8192), change(4, 300, 64), change(5, 300, -64)),
            change(11, 900, 10**6, "cpu"),
            scope="RecordScope.USER_SCOPE",
        ),
        node(
            "autograd::engine::evaluate_function: MmBackward0", 40, 50, node("aten::mm", 41, 49, change(42, 400, 1024))
        ),
        node("memory part:gradient:400", 51, 52, scope="RecordScope.USER_SCOPE"),
        node(
            "Optimizer.step#AdamW.step", 60, 70, node("aten::sqrt", 61, 62, change(61, 500, 256)), change(69, 500, -256)
        ),
        node("memory part:workspaces", 80, 90, change(85, 200, -8192), change(86, 600, -4096)),
    ]
    parts = parts_at_peak({600: (4096, "unattributed"), 700: (2048, "weights")}, _stream(tree[::-1], "cuda"))
    expected = {"activation": 512, "gradient": 1024, "workspace": 8192 + 4096 + 256, "weights": 2048}
    assert parts == {**dict.fromkeys(MEMORY_PARTS, 0), **expected}


def test_what_the_allocator_counts_beyond_the_events_is_unattributed():
    found = _anatomy({**dict.fromkeys(MEMORY_PARTS, 0), "weights": 1000}, 1100)
    assert found is not None
    assert (found.peak_bytes, found.parts["unattributed"]) == (1100, 100)
