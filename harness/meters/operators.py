"""Which operators a step runs, with their FLOPs, calls and time: on a GPU the time of their kernels.

FLOPs come from torch's registry of formulas (`torch.utils.flop_counter`), which go by shapes: dense, without regard to
masks or to the zeros of a sparse operand. `FlopCounterMode` itself is not used: it says nothing of operators that it
has no formula for, and follows modules as well, which makes it slow for the many small operators of a request.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.interfaces import Session
from harness.run.flops import attention_backward_flops, attention_forward_flops

#: `counted` has a formula; `zero` has no FLOPs by convention; `uncounted` may have some that nobody counts.
Kind = Literal["counted", "zero", "uncounted"]

#: Profiled steps have a handful of events for each operator, all held in host memory; a longer step, such as a whole
#: request, takes ten times its own time to profile and to read.
MOST_PROFILED_CALLS = 30_000
#: Starts the name of the annotation around each operator of a profiled step.
MARK = "harness operator "

#: aten operators without FLOPs by convention, beside those that torch tags as elementwise or as a reduction; each
#: stands for its backward and its in-place form too. Torch before 2.13 tags no reductions.
ZERO = set(
    """
    all amax amin aminmax any argmax argmin count_nonzero linalg_vector_norm logsumexp max mean median min norm prod std
    std_mean sum var var_mean bincount cummax cummin cumprod cumsum histc logcumsumexp
    _adaptive_avg_pool2d avg_pool2d max_pool2d_with_indices
    _fused_rms_norm _native_batch_norm_legit cudnn_batch_norm native_batch_norm native_group_norm native_layer_norm
    _log_softmax _masked_softmax _safe_softmax _softmax softplus
    _fused_dropout bernoulli exponential multinomial native_dropout normal random uniform
    binary_cross_entropy huber_loss mse_loss nll_loss nll_loss2d nll_loss2d_forward nll_loss_forward smooth_l1_loss
    _index_put_impl _to_copy _unsafe_index _unsafe_index_put _unsafe_view cat clone constant_pad_nd copy detach
    embedding embedding_dense empty_like fill flip full_like gather index index_add index_copy index_fill index_put
    index_select lift_fresh masked_fill masked_scatter masked_select new_empty new_empty_strided new_full new_ones
    new_zeros nonzero ones_like rand_like randn_like repeat repeat_interleave resize roll scatter scatter_add
    scatter_reduce select select_scatter set slice slice_scatter sort split split_with_sizes stack topk tril triu where
    zero zeros_like
    _assert_async _fused_sdp_choice _local_scalar_dense bucketize equal floor_divide is_nonzero searchsorted
    """.split()
)
#: Families of aten operators that update parameters; `_foreach_mm` is the one with products.
ZERO_FAMILIES = re.compile(r"_foreach_(?!.*mm)|_fused_(adam|adamw|adagrad|sgd)_?$|_amp_")
#: Operators of other libraries that convert numbers or update parameters.
ZERO_ELSEWHERE = {
    *(f"bitsandbytes::{kind}quantize_{width}" for kind in ("", "de") for width in ("4bit", "blockwise")),
    *(f"bitsandbytes::int8_{name}quant" for name in ("double_", "vectorwise_", "vectorwise_de")),
    *(f"bitsandbytes::optimizer_update_{width}" for width in ("32bit", "8bit_blockwise")),
    *(f"torchao::{name}_affine" for name in ("choose_qparams", "quantize", "dequantize")),
}
#: What an operator is for, by parts of its name. Batched products alone (`bmm`) may be attention or anything else.
GROUPS = (
    ("attention", ("attention", "attn")),
    ("convolution", ("conv",)),
    ("linear", ("::mm", "addmm", "_mm", "linear", "gemm", "gemv")),
)
#: Work of a GPU that is no operator's.
ZERO_KERNELS = ("Memcpy", "Memset")


@dataclass
class Operator:
    """What one operator did in a step; seconds are None where no time was taken."""

    name: str
    kind: Kind
    flops: float = 0.0
    calls: int = 0
    seconds: float | None = None

    @property
    def group(self) -> str:
        """What the operator is for, as far as its name says: linear, attention, convolution or other."""
        if self.kind == "zero":
            return "other"
        return next((group for group, parts in GROUPS if any(part in self.name for part in parts)), "other")


def operators_of(session: Session, device: str) -> tuple[list[Operator], str]:
    """The operators of one step, and why they have no time, if so; runs one step, on a GPU a second one.

    Functions that `torch.compile` made run uncompiled here. Raises whatever the step raises.
    """
    if device != "cuda":
        return _count(session, timed=True), ""
    found = _count(session)
    calls = sum(operator.calls for operator in found)
    if calls > MOST_PROFILED_CALLS:
        return found, f"a step of {calls:,} operators is too long to profile"
    seconds = kernel_seconds(_profiled(session))
    return (with_seconds(found, seconds), "") if seconds else (found, "the profiler saw no kernel of the step")


def with_seconds(operators: Iterable[Operator], seconds: Mapping[str, float]) -> list[Operator]:
    """The operators with the time of their kernels, and what the GPU did for none of them, under the kernel's name."""
    found = {operator.name: operator for operator in operators}
    for operator in found.values():
        operator.seconds = seconds.get(operator.name, 0.0)
    return [
        *found.values(),
        *(
            Operator(name[:80], "zero" if name.startswith(ZERO_KERNELS) else "uncounted", seconds=taken)
            for name, taken in seconds.items()
            if name not in found
        ),
    ]


def kernel_seconds(events: Iterable[Any]) -> dict[str, float]:
    """Device seconds by operator from the profiler's raw events; a kernel outside every operator has its own name.

    A kernel's event links to the innermost operator that launched it; the mark around that one names what was called.
    """
    from torch.autograd import DeviceType

    marks: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    launchers: dict[int, tuple[int, int]] = {}
    kernels: list[tuple[str, int, int]] = []
    for event in events:
        name, start = event.name(), event.start_ns()
        if event.device_type() == DeviceType.CUDA:
            if not event.is_user_annotation() and not name.startswith(MARK):
                kernels.append((name, event.linked_correlation_id(), event.duration_ns()))
        elif name.startswith(MARK):
            marks[event.start_thread_id()].append((start, start + event.duration_ns(), name.removeprefix(MARK)))
        elif "::" in name:  # calls of the CUDA runtime number themselves anew
            launchers[event.correlation_id()] = (event.start_thread_id(), start)
    for placed in marks.values():
        placed.sort()
    seconds: dict[str, float] = defaultdict(float)
    for kernel, link, nanoseconds in kernels:
        thread, start = launchers.get(link, (0, -1))
        seconds[_mark_at(marks.get(thread, []), start) or kernel] += nanoseconds / 1e9
    return dict(seconds)


def _mark_at(marks: list[tuple[int, int, str]], time_ns: int) -> str | None:
    """The mark that covers a time; marks of one thread do not overlap."""
    place = bisect_right(marks, (time_ns, sys.maxsize)) - 1
    return marks[place][2] if place >= 0 and time_ns <= marks[place][1] else None


def _count(session: Session, timed: bool = False, marked: bool = False) -> list[Operator]:
    session.before_step()
    counter = _counter(timed, marked)
    with _uncompiled(), counter:
        session.step()
    return counter.operators()


def _profiled(session: Session) -> list[Any]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        _count(session, marked=True)
        torch.cuda.synchronize()
    results = profiler.profiler and profiler.profiler.kineto_results
    return results.events() if results else []


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """torch.compile refuses to run where operators are watched."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        return contextlib.nullcontext()
    import torch

    return torch.compiler.set_stance("force_eager")


def _counter(timed: bool, marked: bool) -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    formulas = _formulas()

    class Counter(TorchDispatchMode):
        """Sees each operator that is not made of others, below autograd; what runs inside one is not seen again."""

        supports_higher_order_operators = True

        def __init__(self) -> None:
            super().__init__()
            self.known: dict[Any, tuple[Operator | None, Any, bool]] = {}

        def operators(self) -> list[Operator]:
            merged: dict[str, Operator] = {}
            for operator, _, _ in self.known.values():
                if operator is not None:
                    into = merged.setdefault(operator.name, Operator(operator.name, operator.kind))
                    into.flops += operator.flops
                    into.calls += operator.calls
                    if operator.seconds is not None:
                        into.seconds = (into.seconds or 0.0) + operator.seconds
            return list(merged.values())

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            known = self.known.get(func)
            if known is None:
                known = self.known[func] = _look_up(func, formulas)
            operator, formula, composite = known
            if composite:
                with self:
                    return func.decompose(*args, **kwargs)
            if operator is None:
                return func(*args, **kwargs)
            operator.calls += 1
            if marked:
                with torch.profiler.record_function(MARK + operator.name):
                    out = func(*args, **kwargs)
            else:
                start = time.perf_counter()
                out = func(*args, **kwargs)
                if timed:
                    operator.seconds = (operator.seconds or 0.0) + time.perf_counter() - start
            if formula is not None:
                operator.flops += formula(*args, **kwargs, out_val=out)
            return out

    return Counter()


def _formulas() -> dict[Any, Any]:
    """Torch's formulas; those of attention are ours: torch has none for the CPU, and not each release knows GQA."""
    import torch
    from torch.utils.flop_counter import flop_registry

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return attention_forward_flops(query.shape, key.shape, value.shape)

    def backward(_gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return attention_backward_flops(query.shape, key.shape, value.shape)

    def triangular(system: Any, right: Any, *_: Any, **__: Any) -> int:
        return right.numel() * system.shape[-1]  # half of a product's, by the zeros that the operator never reads

    def convolution_backward(gradient: Any, taken: Any, weight: Any, *options: Any, **__: Any) -> int:
        # Torch's own takes the groups of a convolution for one. The last option says which gradients are wanted.
        transposed, wanted = options[4], options[-1]
        places = (taken if transposed else gradient).shape
        return 2 * places[0] * math.prod(places[2:]) * weight.numel() * sum(wanted[:2])

    formulas = dict(flop_registry)
    formulas[torch.ops.aten.linalg_solve_triangular] = triangular
    formulas[torch.ops.aten.convolution_backward] = convolution_backward
    for kernel in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu"):
        name = f"_scaled_dot_product_{kernel}"
        formulas[getattr(torch.ops.aten, name)] = forward
        formulas[getattr(torch.ops.aten, f"{name}_backward")] = backward
    return formulas


def _look_up(func: Any, formulas: Mapping[Any, Any]) -> tuple[Operator | None, Any, bool]:
    """An operator's entry (None for a view, which runs nothing), its formula, and whether it is made of others."""
    import torch

    packet = getattr(func, "_overloadpacket", func)
    formula = formulas.get(packet)
    if not isinstance(func, torch._ops.OpOverload):
        return Operator(func.name(), "uncounted" if formula is None else "counted"), formula, False
    name = packet._qualified_op_name
    if formula is not None:
        return Operator(name, "counted"), formula, False
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return None, None, True
    if any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns):
        return None, None, False
    return Operator(name, "zero" if _has_no_flops(func, name) else "uncounted"), None, False


def _has_no_flops(func: Any, name: str) -> bool:
    import torch

    if torch.Tag.pointwise in func.tags or getattr(torch.Tag, "reduction", None) in func.tags:
        return True
    library, _, stem = name.partition("::")
    if library != "aten":
        return name in ZERO_ELSEWHERE or library == "profiler"
    if ZERO_FAMILIES.match(stem) or re.sub(r"(_backward(_data)?|_)$", "", stem) in ZERO:
        return True
    # What takes no tensor makes one.
    return not any("Tensor" in str(argument.type) for argument in func._schema.arguments)
