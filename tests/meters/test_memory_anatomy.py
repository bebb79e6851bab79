"""What holds the bytes at a step's peak: every part against what is known of it beforehand."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.interfaces import Session, Work
from harness.meters import memory_anatomy
from harness.meters.block_lives import Change, Claimed, Event, Given, Taken, parts_at_peak
from harness.meters.memory_anatomy import Anatomy, _anatomy, _stream, anatomy_of
from harness.meters.memory_formulas import expectations
from harness.meters.memory_owners import find_owners
from harness.rows.checks import MEMORY_PARTS

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
        from harness.run.execute import load
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

    from harness.run.tensors import model_bytes

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


@dataclass(frozen=True)
class Move:
    """At an address: what is there ends; then a block of `units` x 512 bytes begins, unless that is none."""

    address: int
    units: int
    unused_bytes: int
    part: str
    claim: str | None
    free_is_seen: bool
    alloc_is_seen: bool = True


MOVES = st.builds(
    Move,
    address=st.integers(0, 4),
    units=st.integers(0, 12),
    unused_bytes=st.integers(0, 511),
    part=st.sampled_from(["activation", "workspace"]),
    claim=st.sampled_from([None, "gradient", "kv_cache"]),
    free_is_seen=st.booleans(),
)
BEFORE = st.dictionaries(st.integers(0, 4), st.integers(1, 12).map(lambda units: (512 * units, "weights")))


def parts_of(sizes: dict[str, int]) -> dict[str, int]:
    """Every part, with no bytes where none are given."""
    return {part: sizes.get(part, 0) for part in MEMORY_PARTS}


class Truth:
    """A GPU's blocks: the allocator's history of them, what the profiler saw, and the parts when most was held."""

    def __init__(self, before: dict[int, tuple[int, str]], moves: list[Move]) -> None:
        self.history: list[Change] = []
        self.stream: list[Event] = []
        self.clock = itertools.count()
        self.here, self.claims = dict(before), dict[int, str]()
        self.peak, self.parts = 0, parts_of({})
        self.count()
        for move in moves:
            if move.address in self.here:
                self.end(move)
            if move.units:
                self.begin(move)
        for address in list(self.claims):
            self.claim(address)

    def end(self, move: Move) -> None:
        self.claim(move.address)
        del self.here[move.address]
        self.history.append((move.address, None))
        if move.free_is_seen:
            self.stream.append(Given(next(self.clock), move.address))

    def begin(self, move: Move) -> None:
        size = 512 * move.units
        self.history.append((move.address, size - move.unused_bytes))
        if move.alloc_is_seen:
            self.stream.append(Taken(next(self.clock), move.address, size, move.part))
        if move.claim:
            self.claims[move.address] = move.claim
        self.here[move.address] = (size, (move.claim or move.part) if move.alloc_is_seen else "unattributed")
        self.count()

    def claim(self, address: int) -> None:
        """As late as can be: it holds for the whole life all the same."""
        if address in self.claims:
            self.stream.append(Claimed(next(self.clock), address, self.claims.pop(address)))

    def count(self) -> None:
        held = sum(size for size, _ in self.here.values())
        if held > self.peak:
            self.peak, self.parts = held, parts_of({})
            for size, part in self.here.values():
                self.parts[part] += size


@given(BEFORE, st.lists(MOVES, max_size=40))
def test_ends_that_the_profiler_misses_change_nothing(before: dict[int, tuple[int, str]], moves: list[Move]):
    truth = Truth(before, moves)
    assert parts_at_peak(before, truth.stream, truth.history or [(9, None)]) == truth.parts


def test_without_the_history_a_missed_end_counts():
    changes = ((0, 1), (0, 0), (1, 1))
    truth = Truth({}, [Move(address, units, 0, "activation", None, False) for address, units in changes])
    assert sum(parts_at_peak({}, truth.stream).values()) == 1024
    assert parts_at_peak({}, truth.stream, truth.history) == truth.parts == parts_of({"activation": 512})


@given(BEFORE, st.lists(MOVES, max_size=40, unique_by=lambda move: move.units), st.sets(st.integers(0, 39)))
def test_a_block_that_the_profiler_never_saw_is_alone_unattributed(
    before: dict[int, tuple[int, str]], moves: list[Move], unseen: set[int]
):
    # Every size occurs once: which block was not seen is certain. Ends are seen: no claim is taken for a dead block's.
    moves = [
        dataclasses.replace(move, free_is_seen=True, alloc_is_seen=position not in unseen)
        for position, move in enumerate(moves)
    ]
    truth = Truth(before, moves)
    assert parts_at_peak(before, truth.stream, truth.history or [(9, None)]) == truth.parts


@given(BEFORE, st.lists(MOVES, max_size=40), st.sets(st.integers(0, 39)))
def test_equal_blocks_that_the_profiler_never_saw_keep_the_sum(
    before: dict[int, tuple[int, str]], moves: list[Move], unseen: set[int]
):
    moves = [dataclasses.replace(move, alloc_is_seen=position not in unseen) for position, move in enumerate(moves)]
    truth = Truth(before, moves)
    parts = parts_at_peak(before, truth.stream, truth.history or [(9, None)])
    assert sum(parts.values()) == truth.peak
    assert all(size >= 0 for size in parts.values())


@given(st.integers(1, 2**24), st.integers(0, 2**20))
def test_a_large_block_is_recognized_with_the_rest_that_it_keeps(asked: int, rest: int):
    size = -(-asked // 512) * 512
    block = size + rest // 512 * 512 * (size > 2**20)
    # Of three blocks at the address the second alone was seen: the first is too large to be it.
    history = [(1, 2**26), (1, None), (1, asked), (2, 2**26), (1, None), (2, None), (1, asked)]
    parts = parts_at_peak({}, [Taken(0, 1, block, "activation"), Taken(1, 2, 2**26, "gradient")], history)
    assert parts == parts_of({"activation": block, "gradient": 2**26})


@given(st.lists(st.integers(1, 2**30), min_size=1, max_size=5))
def test_when_all_blocks_were_seen_their_order_is_enough(asked: list[int]):
    """The allocator's settings may make it round up otherwise, such as to powers of two."""
    stream = [Taken(time, 1, 2 * size + 4096, "activation") for time, size in enumerate(asked)]
    parts = parts_at_peak({}, stream, [change for size in asked for change in ((1, size), (1, None))])
    assert parts == parts_of({"activation": 2 * max(asked) + 4096})


def test_scratch_stays_scratch_in_the_history():
    stream = [Taken(0, 1, 512, "activation", 9), Given(5, 1), Taken(10, 1, 1024, "activation", 19)]
    assert parts_at_peak({}, stream[:2], [(1, 400), (1, None)])["workspace"] == 512
    assert parts_at_peak({}, stream, [(1, 400), (1, None), (1, 1000)])["activation"] == 1024


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


class PretendedAllocator:
    """A GPU's allocator of blocks of 512 bytes, its records as torch gives them, and what a profiler would see."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here: dict[int, int] = {}
        self.peak, self.recording, self.fails_to_see, self.backend = 0, False, False, "native"
        self.entries: list[dict[str, Any]] = []
        self.events: list[Any] = []
        self.completes: list[int] = []
        self.clock = itertools.count()
        cuda = torch.cuda
        for owner, name, replacement in (
            (cuda, "synchronize", lambda: None),
            (cuda, "reset_peak_memory_stats", self.reset),
            (cuda, "max_memory_allocated", lambda: self.peak),
            (cuda, "current_device", lambda: 0),
            (cuda, "get_allocator_backend", lambda: self.backend),
            (cuda, "memory_snapshot", self.snapshot),
            (cuda.memory, "_record_memory_history", self.record),
            (cuda.memory, "_snapshot", lambda: {"segments": [], "device_traces": [list(self.entries)]}),
            (torch._C, "_cuda_clearCublasWorkspaces", self.clear),
            (memory_anatomy, "_stream", lambda roots, device: _stream(self.events, device)),
        ):
            monkeypatch.setattr(owner, name, replacement, raising=False)

    def reset(self) -> None:
        self.peak = sum(self.here.values())
        self.events.clear()  # the profiler starts later

    def snapshot(self) -> list[Any]:
        assert self.backend == "native", "the others raise"
        blocks = [{"address": key, "size": size, "state": "active_allocated"} for key, size in self.here.items()]
        return [{"blocks": [*blocks, {"address": 99, "size": 2**30, "state": "inactive"}]}]

    def record(self, enabled: str | None = "all", *, context: Any = "all", stacks: str = "all", max_entries: int = 0):
        assert enabled is None or (context is None and max_entries > 0), "stacks cost much"
        self.recording = enabled == "all"
        if not self.recording:
            self.entries.clear()

    def change(self, address: int, asked: int, sign: int) -> None:
        size = sign * -(-asked // 512) * 512
        if self.recording:
            action = "alloc" if sign > 0 else "free_requested"
            self.entries.append({"action": action, "addr": address, "size": asked})
            self.completes += [address] if sign < 0 else []
        if not self.fails_to_see:
            self.events.append(change(next(self.clock), address, size))

    def complete(self) -> None:
        """No other stream uses the freed blocks any more."""
        self.entries += [{"action": "free_completed", "addr": address, "size": 1} for address in self.completes]
        self.completes.clear()

    def take(self, address: int, asked: int) -> None:
        self.here[address] = -(-asked // 512) * 512
        self.peak = max(self.peak, sum(self.here.values()))
        self.change(address, asked, 1)

    def give(self, address: int, *, seen: bool = True) -> None:
        self.fails_to_see = not seen
        self.change(address, self.here.pop(address), -1)
        self.fails_to_see = False

    def clear(self) -> None:
        """cuBLAS gives the block at 7 back."""
        begin, before = next(self.clock), len(self.events)
        self.give(7)
        self.events[before:] = [node("memory part:workspaces", begin, next(self.clock), *self.events[before:])]


class FreesUnseen(Session):
    """Two gradients of the activations' size, where an activation's end between two operations is not profiled."""

    def __init__(self, allocator: PretendedAllocator) -> None:
        self.allocator = allocator
        allocator.take(7, 4096)
        allocator.take(8, 1000)

    def step(self) -> None:
        for address, part in ((1, "kv_cache"), (2, "gradient"), (3, "gradient")):
            self.allocator.take(address, 10_000)
            now = next(self.allocator.clock)
            self.allocator.events.append(node(f"memory part:{part}:{address}", now, now))
            if address < 3:
                self.allocator.give(address, seen=False)
        self.allocator.complete()
        self.allocator.take(2, 10_000)


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> PretendedAllocator:
    return PretendedAllocator(monkeypatch)


def test_a_pretended_gpus_peak_is_its_allocators_whatever_the_profiler_misses(allocator: PretendedAllocator):
    found = anatomy_of(FreesUnseen(allocator), "cuda")
    assert found is not None
    expected = {"gradient": 10_240, "workspace": 4096 + 10_240, "unattributed": 1024}
    assert found == Anatomy(sum(expected.values()), parts_of(expected))
    assert not allocator.recording


@pytest.mark.parametrize("why", ["another allocator", "too long"])
def test_without_a_history_the_profilers_stream_has_to_do(
    why: str, allocator: PretendedAllocator, monkeypatch: pytest.MonkeyPatch
):
    if why == "too long":
        monkeypatch.setattr(memory_anatomy, "_HISTORY_ENTRIES", 5)
    else:
        allocator.backend = "cudaMallocAsync"
    session = FreesUnseen(allocator)
    found = anatomy_of(session, "cuda")
    assert found is not None
    assert found.peak_bytes == allocator.peak == sum(found.parts.values())
    assert found.parts["kv_cache"] == 10_240, "its end was not seen"
    assert not allocator.recording


def test_a_failing_step_ends_the_recording(allocator: PretendedAllocator):
    class Fails(Session):
        def step(self) -> None:
            raise RuntimeError(f"recording: {allocator.recording}")

    with pytest.raises(RuntimeError, match="recording: True"):
        anatomy_of(Fails(), "cuda")
    assert not allocator.recording
