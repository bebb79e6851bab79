"""This device's own roofs: the best rate of each kind of work over several sizes, timed as a trial's steps are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.interfaces import Meter
from harness.machine import load as machine_load
from harness.machine.environment import device_name
from harness.machine.gpu import gpu_facts, nvml, nvml_handle
from harness.machine.measured_roofs import MeasuredRoofs, Rate, device_key
from harness.meters.kernels import Kernel, memory, products
from harness.meters.roofs import roof_of
from harness.run.measure import Timings, make_clock
from harness.run.sampling import sampling
from harness.stats.quantiles import quantile

WARMUP_CALLS = 3


@dataclass(frozen=True)
class Sizes:
    """What to try: edges of square matrices, bytes of tensors, each ascending, and the least timed repeats of each."""

    products: Sequence[int]
    buffers: Sequence[int]
    repeats: int = 10


def default_sizes(device: str, cache_bytes: int | None) -> Sizes:
    """Products from small to as large as the time allows, and tensors of which the cache holds an eighth at most."""
    least = max(2**28, 8 * (cache_bytes or 0))
    if device == "cuda":
        return Sizes((4096, 8192, 16384), (least, 4 * least, 16 * least))
    return Sizes((512, 1024, 2048, 4096), (least, 2 * least))


def measure_roofs(
    device: str, seconds: float, say: Callable[[str], object], sizes: Sizes | None = None
) -> MeasuredRoofs:
    """Measure `device` in about `seconds`; `say` hears the name of each kind of work as it starts.

    A kind that does not run here is absent with the reason. UserError when torch cannot use the GPU that is there.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "an NVIDIA GPU answers, but this torch cannot use it; install torch for CUDA, or hide the GPU with "
            "CUDA_VISIBLE_DEVICES="
        )
    gpu_quiet = _gpu_quiet(device)  # before anything here gives it work
    part, cache = device_name(device), _cache_bytes(device)
    sizes = sizes or default_sizes(device, cache)
    multiplied, moved = products(device), memory(device)
    share = seconds / (len(multiplied) + len(moved))

    def best(kernel: Kernel, tried: Sequence[int], datasheet: float | None) -> Rate:
        say(kernel.name)
        return replace(best_rate(kernel, tried, sizes.repeats, share, device), datasheet_per_second=datasheet)

    peaks, before, precision = roof_of(part), machine_load.snapshot(), torch.get_float32_matmul_precision()
    try:
        flops = {k.name: best(k, sizes.products, peaks and peaks.flops_per_second.get(k.name)) for k in multiplied}
        moves = {k.name: best(k, sizes.buffers, peaks and peaks.bytes_per_second) for k in moved}
    finally:
        torch.set_float32_matmul_precision(precision)
    # Device events time a GPU's large kernels alike whoever uses the processor.
    quiet = gpu_quiet or machine_load.between(before, machine_load.snapshot()).quiet
    return MeasuredRoofs(
        key=str(device_key(device)),
        device_name=part,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        torch_version=str(torch.__version__),
        thread_count=None if device == "cuda" else torch.get_num_threads(),
        power_limit_watts=gpu_facts()["power_limit_watts"] if device == "cuda" else None,
        cache_bytes=cache,
        quiet=quiet,
        flops_per_second=flops,
        bytes_per_second=moves,
    )


def best_rate(kernel: Kernel, sizes: Sequence[int], repeats: int, seconds: float, device: str) -> Rate:
    """The best median over `sizes`, in about `seconds`. A size that would take longer than is left ends the search."""
    best, end = Rate(reason="no size was tried"), time.perf_counter() + seconds
    for index, size in enumerate(sizes):
        left, known = end - time.perf_counter(), best.median_per_second
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
    started, warmup, timings = time.perf_counter(), Timings(), Timings()
    while len(warmup.host) < WARMUP_CALLS or time.perf_counter() - started < seconds / 4:
        clock(step, warmup)
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


class _Clock(Meter):
    """NVML's clock while the repeats run."""

    def __init__(self, device: str) -> None:
        self.hertz: list[float] = []
        self.period_seconds = 0.05 if device == "cuda" else None

    def sample(self) -> None:
        library = nvml()
        self.hertz.append(library.nvmlDeviceGetClockInfo(nvml_handle(), library.NVML_CLOCK_SM) * 1e6)


def _gpu_quiet(device: str) -> str:
    """Whether the GPU had nothing to do before; empty where there is none."""
    if device != "cuda":
        return ""
    busy_ratio = nvml().nvmlDeviceGetUtilizationRates(nvml_handle()).gpu / 100
    return "quiet" if busy_ratio <= machine_load.QUIET_RATIO else f"not quiet: the GPU was {busy_ratio:.0%} busy before"


def _cache_bytes(device: str) -> int | None:
    """The last level of cache: of the GPU by torch, of the processor by the kernel; None where it does not tell."""
    if device == "cuda":
        import torch

        properties: Any = torch.cuda.get_device_properties(0)
        return properties.L2_cache_size
    folders = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
    try:
        sizes = [(folder / "size").read_text().strip() for folder in folders]
        return max((int(size.removesuffix("K")) * 1024 for size in sizes), default=None)
    except (OSError, ValueError):
        return None
