"""How fast one kind of work runs on a device: matrix products by dtype, and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.gpu import nvml, nvml_handle
from harness.interfaces import Meter
from harness.measure import Timings, make_clock, sampling
from harness.measured_roofs import Rate
from harness.stats.quantiles import quantile

WARMUP_CALLS = 3


@dataclass(frozen=True)
class Kernel:
    """One kind of work: `make(size)` returns a call that does `work(size)` FLOPs or bytes."""

    name: str
    make: Callable[[int], Callable[[], Any]]
    work: Callable[[int], float]


def best_rate(kernel: Kernel, sizes: Sequence[int], repeats: int, seconds: float, device: str) -> Rate:
    """The best median over `sizes`, in about `seconds`. A size that would take longer than is left ends the search."""
    best, end = Rate(reason="no size was tried"), time.perf_counter() + seconds
    for index, size in enumerate(sizes):
        left = end - time.perf_counter()
        known = best.median_per_second
        if known and kernel.work(size) / known * (WARMUP_CALLS + repeats) > left:
            break
        try:
            found = _rate(kernel, size, repeats, left / (len(sizes) - index), device)
        except Exception as error:  # an operator that the part or the build lacks, or a size that memory lacks
            return best if known else Rate(reason=" ".join(str(error).split())[:200] or type(error).__name__)
        best = max(best, found, key=lambda rate: rate.median_per_second or 0.0)
    return best


def _rate(kernel: Kernel, size: int, repeats: int, seconds: float, device: str) -> Rate:
    step, clock, nvml_clock = kernel.make(size), make_clock(device), _Clock(device)
    warmup = Timings()
    started = time.perf_counter()
    while len(warmup.host) < WARMUP_CALLS or time.perf_counter() - started < seconds / 4:
        clock(step, warmup)
    timings = Timings()
    with sampling([nvml_clock]):
        while len(timings.host) < repeats or time.perf_counter() - started < seconds:
            clock(step, timings)
    rates = [kernel.work(size) / taken for taken in timings.device or timings.host]
    return Rate(
        median_per_second=statistics.median(rates),
        lower_quartile_per_second=quantile(rates, 0.25),
        upper_quartile_per_second=quantile(rates, 0.75),
        size=size,
        repeat_count=len(rates),
        sm_clock_hertz=statistics.median(nvml_clock.hertz) if nvml_clock.hertz else None,
    )


def product_kernels(device: str) -> list[Kernel]:
    """Square products by dtype, of normally distributed numbers: zeros draw less power and run faster."""
    import torch

    def normal(size: int) -> Any:
        return torch.randn(size, size, device=device)

    def plain(dtype: Any, precision: str) -> Callable[[int], Callable[[], Any]]:
        def make(size: int) -> Callable[[], Any]:
            torch.set_float32_matmul_precision(precision)
            a, b = normal(size).to(dtype), normal(size).to(dtype)
            out = torch.empty_like(a)
            return lambda: torch.mm(a, b, out=out)

        return make

    # Eight bits: tensor cores want the second matrix by columns.
    def int8(size: int) -> Callable[[], Any]:
        a, b = ((normal(size) * 32).clamp(-127, 127).to(torch.int8) for _ in range(2))
        out = torch.empty(size, size, device=device, dtype=torch.int32)
        return lambda: torch._int_mm(a, b.t(), out=out)

    def float8(size: int) -> Callable[[], Any]:
        a, b = (normal(size).to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.ones((), device=device)
        out = torch.empty(size, size, device=device, dtype=torch.bfloat16)
        options = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
        return lambda: torch._scaled_mm(a, b.t(), out=out, **options)

    makers = {"float32": plain(torch.float32, "highest")}
    if device == "cuda":
        makers["tf32"] = plain(torch.float32, "high")
    makers |= {
        "bfloat16": plain(torch.bfloat16, "highest"),
        "float16": plain(torch.float16, "highest"),
        "int8": int8,
        "float8": float8,
    }
    return [Kernel(name, make, lambda size: 2.0 * size**3) for name, make in makers.items()]


def memory_kernels(device: str) -> list[Kernel]:
    """A copy, of which bytes read and written count, and a sum, which only reads: decoding mostly reads."""
    import torch

    def copy(size: int) -> Callable[[], Any]:
        source = torch.randn(size // 4, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    def read(size: int) -> Callable[[], Any]:
        source = torch.randn(size // 4, device=device)
        return lambda: source.sum()

    return [Kernel("copy", copy, lambda size: 2.0 * size), Kernel("read", read, float)]


class _Clock(Meter):
    """NVML's clock while the repeats run."""

    def __init__(self, device: str) -> None:
        self.hertz: list[float] = []
        self.period_seconds = 0.05 if device == "cuda" else None

    def sample(self) -> None:
        library = nvml()
        self.hertz.append(library.nvmlDeviceGetClockInfo(nvml_handle(), library.NVML_CLOCK_SM) * 1e6)
