"""Executed FLOPs against closed forms and the time they cover; what nobody counts is named and voids the count."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import DeviceType
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from harness.interfaces import Readings, Session, Window, Work
from harness.meters import executed_flops, operators
from harness.meters.executed_flops import UNCOUNTED_RATIO, ExecutedFlops
from harness.meters.operators import MARK, ZERO, Operator, kernel_seconds, operators_of, with_seconds
from harness.meters.roofs import Roof
from harness.run.closed_forms import forms_of
from harness.run.flops import cost_of
from harness.techniques.activations.checkpointing import Checkpointing
from harness.techniques.attention.grouped_query import GroupedQuery
from harness.techniques.moe.mixture import Mixture
from harness.techniques.quantization.half import Half
from harness.techniques.quantization.int8 import Int8
from harness.techniques.zeroth_order.mezo import MeZO
from harness.workloads.decode import Decode
from harness.workloads.generate import Generate
from harness.workloads.prefill import Prefill
from harness.workloads.train_step import TrainStep

SIZES = st.integers(1, 9)
TRAIN = TrainStep(batch_size=2, sequence_length=16, budget_tokens=256, held_out_windows=2)
WORKLOADS = [
    TRAIN,
    Prefill(batch_size=2, prompt_tokens=16, quality_windows=2),
    Decode(batch_size=2, prompt_tokens=16, new_tokens=3, quality_windows=2),
    Generate(batch_size=2, prompt_tokens=16, new_tokens=4, quality_windows=2),
]


class Runs(Session):
    """A step that is one function."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.run, self.ready = work, 0

    def before_step(self) -> None:
        self.ready += 1

    def step(self) -> None:
        assert self.ready, "a step needs what before_step prepares"
        self.ready -= 1
        self.run()


def flops_of(work: Callable[[], Any]) -> float:
    found, untimed = operators_of(Runs(work), "cpu")
    assert untimed == ""
    assert [operator.name for operator in found if operator.kind == "uncounted"] == []
    return sum(operator.flops for operator in found)


def session_of(context_of: Callable[..., Any], workload: Any, *techniques: Any, attention: str = "sdpa") -> Any:
    context = context_of(*techniques, workload=workload, num_hidden_layers=2, attention=attention)
    model = context.model.load(context)
    for technique in techniques:
        model = technique.transform(model, context)
    return workload.prepare(model, context)


def probed(session: Session, work: Work, part: str = "cpu", step_seconds: float = 0.1) -> Readings:
    """Readings of a step that is counted here and, with `part="cuda"`, held against the pretended GPU's roof."""
    meter = ExecutedFlops()
    meter.open(part)
    meter.device = "cpu"
    meter.probe(session)
    return meter.readings(Window(work, [step_seconds] * 3, [], 0, 10**9))


@pytest.fixture
def equal_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every call of an operator takes one second."""
    monkeypatch.setattr(operators, "time", SimpleNamespace(perf_counter=itertools.count().__next__))


WORK = Work(samples=1, trained_tokens=1, model_flops=1e12, dtype="bfloat16")


@given(
    batch=SIZES, inputs=SIZES, outputs=SIZES, bias=st.booleans(), mode=st.sampled_from(["train", "off", "inference"])
)
def test_a_linear_layer_is_its_closed_form(batch: int, inputs: int, outputs: int, bias: bool, mode: str):
    layer, given_inputs = torch.nn.Linear(inputs, outputs, bias=bias), torch.ones(batch, inputs)
    forward = 2 * batch * inputs * outputs
    if mode == "train":  # the inputs need no gradient: one product for the weights'
        assert flops_of(lambda: layer(given_inputs).sum().backward()) == 2 * forward
        return
    # In inference mode the layer itself arrives, not the product that it is made of.
    with torch.no_grad() if mode == "off" else torch.inference_mode():
        assert flops_of(lambda: layer(given_inputs)) == forward


@given(
    batch=SIZES,
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.integers(1, 3),
    side=st.integers(3, 8),
    stride=st.integers(1, 2),
)
def test_a_convolution_is_its_closed_form(
    batch: int, groups: int, inputs: int, outputs: int, kernel: int, side: int, stride: int
):
    layer = torch.nn.Conv2d(inputs * groups, outputs * groups, kernel, stride=stride, groups=groups)
    places = ((side - kernel) // stride + 1) ** 2
    with torch.no_grad():
        found = flops_of(lambda: layer(torch.ones(batch, inputs * groups, side, side)))
    assert found == 2 * batch * places * (outputs * groups) * inputs * kernel**2


@given(
    batch=SIZES,
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    queries=SIZES,
    keys=SIZES,
    width=st.sampled_from([4, 8]),
    causal=st.booleans(),
)
def test_grouped_attention_is_its_closed_form(
    batch: int, groups: int, shared: int, queries: int, keys: int, width: int, causal: bool
):
    def tensor(heads: int, positions: int) -> torch.Tensor:
        return torch.ones(batch, heads, positions, width, requires_grad=True)

    query, key, value = tensor(groups * shared, queries), tensor(groups, keys), tensor(groups, keys)

    def attend() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=causal and queries == keys, enable_gqa=True
        )

    product = 2 * batch * groups * shared * queries * keys * width
    with torch.no_grad():
        assert flops_of(attend) == 2 * product
    # Backward: gradients of weighted values and of scores are two products each; a fused kernel makes scores again.
    assert flops_of(lambda: attend().sum().backward()) in (2 * product + 4 * product, 2 * product + 5 * product)


def test_a_checkpointed_block_is_counted_twice_forward():
    block = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    inputs = torch.ones(4, 8, requires_grad=True)
    forward = 2 * 4 * (8 * 32 + 32 * 8)
    plain = flops_of(lambda: block(inputs).sum().backward())
    assert plain == 3 * forward
    for reentrant in (False, True):
        again = flops_of(lambda way=reentrant: checkpoint(block, inputs, use_reentrant=way).sum().backward())
        # Non-reentrant recomputation stops at the last tensor that the backward pass needs, the last product's input.
        assert again == plain + (forward if reentrant else 2 * 4 * 8 * 32)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: type(workload).__name__)
@pytest.mark.parametrize("techniques", [(), (GroupedQuery(2),)], ids=["plain", "gqa"])
def test_the_count_is_torchs_own(workload: Any, techniques: Any, context_of: Callable[..., Any]):
    """Plain attention, because torch has no formula for the fused kernel of a CPU; at the same place of a sequence."""
    ours, theirs = (session_of(context_of, workload, *techniques, attention="eager") for _ in range(2))
    found = sum(operator.flops for operator in operators_of(ours, "cpu")[0])
    theirs.before_step()
    with FlopCounterMode(display=False) as counter:
        theirs.step()
    assert found == counter.get_total_flops() > 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_recomputation_raises_what_is_executed_and_not_what_is_required(attention: str, context_of: Callable[..., Any]):
    plain, again = (
        session_of(context_of, TRAIN, *techniques, attention=attention) for techniques in ((), (Checkpointing(),))
    )
    found = [probed(session, session.work()) for session in (plain, again)]
    without, with_it = (readings.values["step_executed_flops"] for readings in found)
    cost = cost_of(plain.model)
    blocks = cost.forward_flops(32, (16, 16)) - 2 * 32 * cost.output_weights
    # Recomputation stops before the last product of each block, whose result no gradient needs.
    down = 2 * 32 * 2 * plain.model.config.hidden_size * plain.model.config.intermediate_size
    assert with_it - without == blocks - down
    assert plain.work() == again.work()


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: type(workload).__name__)
def test_dense_model_flops_are_what_plain_attention_executes(workload: Any, context_of: Callable[..., Any]):
    session = session_of(context_of, workload, attention="eager")
    steps = workload.new_tokens if isinstance(workload, Decode) else 1  # a decode step's mean is over a sequence
    counts = [probed(session, session.work()).values for _ in range(steps)]
    work = session.work()
    assert sum(values["step_executed_flops"] for values in counts) == steps * work.dense_model_flops
    assert {values["step_dense_model_flops"] for values in counts} == {work.dense_model_flops}
    # Causal attention leaves out, of each prompt or trained token, what follows it.
    passes = {Decode: 0, TrainStep: 3}.get(type(workload), 1)
    forms = forms_of(session.model)
    assert forms is not None
    masked = 2 * 32 * (forms.mixing(16, 16) - forms.mixing(1, 16))
    assert work.dense_model_flops - work.model_flops == passes * masked


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: type(workload).__name__)
@pytest.mark.parametrize(
    "technique", [None, Half(), Int8(), Mixture(4, 2), MeZO()], ids=lambda item: type(item).__name__
)
def test_every_step_has_a_count_or_says_what_is_missing(technique: Any, workload: Any, context_of: Callable[..., Any]):
    if isinstance(technique, Int8) and workload is TRAIN:
        pytest.skip("integer weights cannot be trained")
    session = session_of(context_of, workload, *([technique] if technique else []))
    found = probed(session, session.work())
    for metric in ExecutedFlops.metrics:
        assert found.values.get(metric.name) is not None or found.reasons[metric.name]
    uncounted = found.facts["flops_uncounted_operators"]
    # Grouped products of experts are the only ones here that torch has no formula for.
    assert set(uncounted) == ({"aten::_grouped_mm"} if isinstance(technique, Mixture) else set())
    if uncounted:
        assert "aten::_grouped_mm" in found.reasons["step_executed_flops"]
    else:
        assert found.values["step_executed_flops"] > 0


def test_integer_weights_that_are_made_floats_again_are_counted_in_full(context_of: Callable[..., Any]):
    plain, integers = (session_of(context_of, WORKLOADS[1], *techniques) for techniques in ((), (Int8(),)))
    counts = [probed(session, session.work()).values["step_executed_flops"] for session in (plain, integers)]
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("equal_times")
def test_integer_products_are_named_and_void_the_count(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    # By calls, which is what the clock here shows, two products are few among the conversions around them.
    monkeypatch.setattr(executed_flops, "UNCOUNTED_RATIO", 0.01)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    with torch.no_grad():
        found = probed(Runs(lambda: model(torch.ones(32, 64))), WORK, part="cuda")
    assert found.facts["flops_uncounted_operators"] == {
        "aten::_int_mm": pytest.approx(found.values["flops_uncounted_time_ratio"])
    }
    for name in ("step_executed_flops", "hfu_ratio"):
        assert found.values.get(name) is None
        assert "aten::_int_mm" in found.reasons[name]


@pytest.fixture(scope="module")
def own_product() -> Any:
    """An operator of a user's own, made of a product that nobody sees from outside."""

    @torch.library.custom_op("harness_tests::own_product", mutates_args=())
    def own_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.mm(a, b)

    return own_product


@pytest.mark.usefixtures("equal_times")
def test_an_operator_without_a_formula_is_named_and_voids_the_count(own_product: Any, fake_gpu: Any):
    a = torch.ones(4, 4)
    found = probed(Runs(lambda: own_product(a, a) + torch.mm(a, a)), WORK, part="cuda")
    (entry,) = (item for item in found.facts["operators"] if item["name"] == "harness_tests::own_product")
    assert (entry["kind"], entry["flops"], entry["calls"]) == ("uncounted", None, 1)
    for name in ("step_executed_flops", "hfu_ratio"):
        assert found.values.get(name) is None
        assert "harness_tests::own_product" in found.reasons[name]
    # The third is the sum: elementwise, so neither counted nor missing. The product inside the first is not seen.
    assert found.values["flops_coverage_time_ratio"] == found.values["flops_uncounted_time_ratio"] == 1 / 3
    assert found.facts["counted_flops"] == 2 * 4**3


@pytest.mark.usefixtures("equal_times")
def test_a_little_without_a_formula_leaves_hfu_and_takes_the_exact_count(own_product: Any, fake_gpu: Any):
    a = torch.ones(4, 4)
    found = probed(Runs(lambda: own_product(a, a) + sum(torch.mm(a, a) for _ in range(30))), WORK, part="cuda")
    assert 0 < found.values["flops_uncounted_time_ratio"] < UNCOUNTED_RATIO
    assert found.values["hfu_ratio"] == pytest.approx(30 * 2 * 4**3 / 0.1 / 989.4e12)
    assert found.values.get("step_executed_flops") is None


def test_a_formula_that_its_author_registers_is_used(own_product: Any, monkeypatch: pytest.MonkeyPatch):
    from torch.utils import flop_counter

    formulas = dict(flop_counter.flop_registry)
    monkeypatch.setattr(flop_counter, "flop_registry", formulas)
    flop_counter.register_flop_formula(torch.ops.harness_tests.own_product)(
        lambda a, b, *_, out_shape=None, **__: 2 * a[0] * a[1] * b[1]
    )
    assert flops_of(lambda: own_product(torch.ones(3, 4), torch.ones(4, 5))) == 2 * 3 * 4 * 5


OPERATORS = st.lists(
    st.builds(
        Operator,
        name=st.text("abc", min_size=1, max_size=3).map("aten::".__add__),
        kind=st.sampled_from(["counted", "zero", "uncounted"]),
        flops=st.floats(0, 1e12),
        calls=st.integers(1, 99),
        seconds=st.floats(0, 10),
    ),
    min_size=1,
    max_size=40,
)


@given(found=OPERATORS)
def test_a_count_is_exact_or_absent_and_hfu_is_nearly_so(found: list[Operator]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executed_flops, "operators_of", lambda session, device: (found, ""))
        patch.setattr(executed_flops, "roof_of", lambda part: Roof({"bfloat16": 1e15}, 1e12, 100, {}))
        readings = probed(Runs(int), WORK)
    total = sum(operator.seconds or 0.0 for operator in found)
    missing = sum(operator.seconds or 0.0 for operator in found if operator.kind == "uncounted")
    names = {operator.name for operator in found if operator.kind == "uncounted"}
    assert (readings.values.get("step_executed_flops") is None) == bool(names)
    assert (readings.values["hfu_ratio"] is None) == (not total or missing / total > UNCOUNTED_RATIO)
    if total:
        assert readings.values["flops_uncounted_time_ratio"] == missing / total
        assert 0 <= readings.values["flops_coverage_time_ratio"] <= 1 + 1e-9
    for name in ("step_executed_flops", "hfu_ratio"):
        if readings.values.get(name) is None and names and total:
            assert any(uncounted in readings.reasons[name] for uncounted in names)
    assert len(readings.facts["operators"]) == min(len(found), executed_flops.KEPT)
    assert len(readings.facts["flops_uncounted_operators"]) <= executed_flops.NAMED


def test_hfu_is_executed_flops_over_the_steps_time_and_the_parts_peak(fake_gpu: Any):
    a = torch.ones(128, 128)
    found = probed(Runs(lambda: torch.mm(a, a)), WORK, part="cuda", step_seconds=0.2)
    assert found.values["hfu_ratio"] == pytest.approx(2 * 128**3 / 0.2 / 989.4e12)
    assert found.values["flops_coverage_time_ratio"] == 1


@pytest.mark.parametrize(("name", "dtype", "said"), [("Some GPU", "bfloat16", "Some GPU"), (None, "uint8", "uint8")])
def test_without_a_roof_there_is_a_count_and_no_hfu(name: str | None, dtype: str, said: str, fake_gpu: Any):
    fake_gpu.name = name or fake_gpu.name
    found = probed(Runs(lambda: torch.mm(torch.ones(2, 3), torch.ones(3, 4))), Work(1, dtype=dtype), part="cuda")
    assert found.values["step_executed_flops"] == 48
    assert found.values["hfu_ratio"] is None
    assert said in found.reasons["hfu_ratio"]


def raises() -> None:
    torch.mm(torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("work", "said"), [(raises, "RuntimeError"), (lambda: sum(range(9)), "no torch operator")], ids=["raises", "plain"]
)
def test_a_step_that_cannot_be_counted_says_why(work: Callable[[], Any], said: str):
    found = probed(Runs(work), WORK)
    for metric in ExecutedFlops.metrics:
        assert found.values.get(metric.name) is None
        if metric.name != "step_dense_model_flops":
            assert said in found.reasons[metric.name]


def test_without_torch_nothing_is_counted_and_no_step_is_run(monkeypatch: pytest.MonkeyPatch):
    ran: list[int] = []
    monkeypatch.delitem(sys.modules, "torch")
    found = probed(Runs(lambda: ran.append(1)), WORK)
    assert ran == []
    assert "does not use torch" in found.reasons["step_executed_flops"]


def test_a_session_goes_on_after_the_count_as_if_it_were_a_step(context_of: Callable[..., Any]):
    session = session_of(context_of, WORKLOADS[2])
    for _ in range(2 * WORKLOADS[2].new_tokens):  # over the end of a sequence and its new prompt
        assert probed(session, session.work()).values["step_executed_flops"] > 0
        session.before_step()
        session.step()
    assert session.counted()["output_tokens"] == 4 * WORKLOADS[2].new_tokens * 2


def test_a_function_that_refuses_to_run_uncompiled_is_counted():
    product = torch.compile(torch.mm, backend="eager", fullgraph=True)
    a = torch.ones(4, 4)
    product(a, a)
    assert flops_of(lambda: product(a, a)) == 2 * 4**3
    product(a, a)


@pytest.mark.parametrize("name", sorted(ZERO))
def test_each_operator_without_flops_is_one_that_torch_has(name: str):
    forms = (name, f"{name}_", f"{name}_backward", f"{name}_backward_data")
    assert any(hasattr(torch.ops.aten, form) for form in forms)


def overloads() -> list[Any]:
    """Every operator of torch that has a schema."""
    found = []
    for full in torch._C._dispatch_get_all_op_names():
        library, _, rest = full.partition("::")
        name, _, overload = rest.partition(".")
        if library == "aten":
            found.append(getattr(getattr(torch.ops.aten, name), overload or "default"))
    return found


def test_nothing_that_multiplies_matrices_is_taken_for_free():
    formulas = operators._formulas()
    kinds = {func: operators._look_up(func, formulas)[0] for func in overloads()}
    products = ("mm", "matmul", "dot", "mv", "conv", "linear", "attention", "gemm", "rnn", "lstm", "gru", "linalg")
    free = {
        operator.name
        for operator in kinds.values()
        if operator is not None and operator.kind == "zero" and any(part in operator.name for part in products)
    }
    allowed = ("linalg_vector_norm", "linalg__powsum", "cummax", "cummin", "hamming_window", "gamma")
    assert {name for name in free if not any(part in name for part in allowed)} == set()


def event(name: str, start: int, length: int, number: int = 0, link: int = 0, thread: int = 1, **more: Any) -> Any:
    kind = more.get("device", DeviceType.CPU)
    return SimpleNamespace(
        name=lambda: name,
        start_ns=lambda: start,
        duration_ns=lambda: length,
        device_type=lambda: kind,
        start_thread_id=lambda: thread,
        correlation_id=lambda: number,
        linked_correlation_id=lambda: link,
        is_user_annotation=lambda: more.get("annotation", False),
    )


@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(["aten::mm", "own::op", None]),  # None: launched outside every operator
            st.integers(1, 3),  # thread
            st.lists(st.integers(1, 10**6), max_size=4),  # nanoseconds of its kernels
            st.booleans(),  # launched by an operator inside
        ),
        max_size=12,
    ),
    order=st.randoms(),
)
def test_a_kernels_time_goes_to_the_operator_that_was_called(calls: list[Any], order: Any):
    events, expected, number = [], {}, 10
    for place, (name, thread, kernels, inside) in enumerate(calls):
        start, number = place * 1000, number + 2
        if name is not None:
            events.append(event(MARK + name, start, 900, thread=thread, annotation=True))
        events.append(event(name or "autograd::node", start + 10, 800, number, thread=thread))
        events.append(event("aten::inner", start + 20, 700, number + 1, thread=thread))
        for length in kernels:
            link = number + 1 if inside else number
            kernel = f"kernel of {place}"
            events.append(event(kernel, 10**9 + start, length, 7, link, device=DeviceType.CUDA))
            # The runtime counts its own calls, in the same small numbers as the operators.
            events.append(event("cudaLaunchKernel", start + 30, 5, link, 0, thread=9))
            key = name or kernel
            expected[key] = expected.get(key, 0) + length
        events.append(event(MARK + "on the device", 10**9 + start, 10**6, device=DeviceType.CUDA, annotation=True))
    order.shuffle(events)
    found = kernel_seconds(events)
    assert found == pytest.approx({name: length / 1e9 for name, length in expected.items()})


def test_kernels_of_no_operator_are_uncounted_but_for_copies():
    called = [Operator("aten::mm", "counted", flops=8.0, calls=1), Operator("aten::add", "zero", calls=1)]
    found = with_seconds(called, {"aten::mm": 1.0, "Memcpy HtoD (Pageable -> Device)": 2.0, "k" * 999: 3.0})
    assert [(item.name[:6], item.kind, item.seconds, item.calls) for item in found] == [
        ("aten::", "counted", 1.0, 1),
        ("aten::", "zero", 0.0, 1),
        ("Memcpy", "zero", 2.0, 0),
        ("kkkkkk", "uncounted", 3.0, 0),
    ]
    assert len(found[-1].name) <= 80


def test_the_profilers_real_events_name_the_operator_that_was_called(own_product: Any):
    """Each operator of a real trace stands for a kernel that it launched, for want of a GPU."""
    a = torch.ones(4, 4, requires_grad=True)

    def work() -> None:
        torch.nn.functional.linear(a, a).sum().backward()
        with torch.no_grad():
            own_product(a, a)

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        called = operators._count(Runs(work), marked=True)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    real = profiler.profiler.kineto_results.events()
    kernels = [
        event(f"kernel of {item.name()}", 0, 10**9, link=item.correlation_id(), device=DeviceType.CUDA)
        for item in real
        if item.name() in ("aten::mm", "aten::sum", "harness_tests::own_product")
    ]
    found = kernel_seconds([*real, *kernels])
    calls = {operator.name: operator.calls for operator in called}
    assert (calls["aten::mm"], calls["harness_tests::own_product"]) == (3, 1)
    # A call of Python's appears above autograd too, where no kernel is launched; inside the mark there is one each.
    assert found["aten::mm"] == calls["aten::mm"]
    assert found["harness_tests::own_product"] == 2, "itself and the product inside it"


@pytest.mark.parametrize(
    ("most", "said"), [(1, "too long to profile"), (9, "the profiler saw no kernel")], ids=["long", "blind"]
)
def test_a_step_without_kernel_times_is_counted_without_hfu(
    most: int, said: str, monkeypatch: pytest.MonkeyPatch, fake_gpu: Any
):
    a = torch.ones(4, 4)
    monkeypatch.setattr(operators, "MOST_PROFILED_CALLS", most)
    monkeypatch.setattr(operators, "_profiled", lambda session: [])
    meter = ExecutedFlops()
    meter.open("cuda")
    meter.probe(Runs(lambda: torch.mm(a, a) + a))
    found = meter.readings(Window(WORK, [0.1], [], 0, 10**8))
    assert found.values["step_executed_flops"] == 2 * 4**3
    for name in ("hfu_ratio", "flops_coverage_time_ratio", "flops_uncounted_time_ratio"):
        assert found.values.get(name) is None
        assert said in found.reasons[name]
    assert {entry["seconds"] for entry in found.facts["operators"]} == {None}
