"""`harness calibrate`: the best rates of matrix products and of memory that this very device reaches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness import machine_load
from harness.datasheet import roof_of
from harness.environment import device_name
from harness.errors import UserError
from harness.gpu import gpu_facts, nvml, nvml_handle
from harness.measured_roofs import MeasuredRoofs, Rate, device_key, write
from harness.rates import best_rate, memory_kernels, product_kernels
from harness.store import Results, disk_message, locked

#: Seconds that a calibration may take where nobody says otherwise: enough for large products of every dtype.
DEFAULT_SECONDS = {"cuda": 20.0, "cpu": 30.0}


@dataclass(frozen=True)
class Sizes:
    """What to try: edges of square matrices, bytes of tensors, each ascending, and timed repeats of each."""

    products: Sequence[int]
    buffers: Sequence[int]
    repeats: int = 10


def calibrate(
    device: str, seconds: float, sizes: Sizes | None = None, say: Callable[[str], object] = str
) -> MeasuredRoofs:
    """Measure `device` in about `seconds`; `say` hears the name of each kind of work as it starts.

    Each kind's rate is the best median over the sizes. A kind that does not run here is absent with the reason.
    UserError when torch cannot use the GPU that is there.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "an NVIDIA GPU answers, but this torch cannot use it; install torch for CUDA, or hide the GPU with "
            "CUDA_VISIBLE_DEVICES="
        )
    busy = nvml().nvmlDeviceGetUtilizationRates(nvml_handle()).gpu / 100 if device == "cuda" else 0.0
    cache = _cache_bytes(device)
    sizes = sizes or default_sizes(device, cache)
    kernels = [*product_kernels(device), *memory_kernels(device)]
    before, precision = machine_load.snapshot(), torch.get_float32_matmul_precision()
    rates = {}
    try:
        for kernel in kernels:
            say(kernel.name)
            tried = sizes.buffers if kernel.name in ("copy", "read") else sizes.products
            rates[kernel.name] = best_rate(kernel, tried, sizes.repeats, seconds / len(kernels), device)
    finally:
        torch.set_float32_matmul_precision(precision)
    load = machine_load.between(before, machine_load.snapshot())
    return MeasuredRoofs(
        key=str(device_key(device)),
        device_name=device_name(device),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        torch_version=str(torch.__version__),
        thread_count=torch.get_num_threads() if device == "cpu" else None,
        power_limit_watts=gpu_facts()["power_limit_watts"] if device == "cuda" else None,
        cache_bytes=cache,
        quiet=f"not quiet: the GPU was {busy:.0%} busy before" if busy > machine_load.QUIET_RATIO else load.quiet,
        bytes_per_second={name: rates.pop(name) for name in ("copy", "read")},
        flops_per_second=rates,
    )


def default_sizes(device: str, cache_bytes: int | None) -> Sizes:
    """Products from small to as large as the time allows, and tensors of which caches hold an eighth at most."""
    least = max(2**28, 8 * (cache_bytes or 0))
    if device == "cuda":
        return Sizes((4096, 8192, 16384), (least, 4 * least, 16 * least))
    return Sizes((512, 1024, 2048, 4096), (least, 2 * least))


def _cache_bytes(device: str) -> int | None:
    """The last level of cache: of the GPU by torch, of the processor by the kernel; None where it does not tell."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).L2_cache_size
    folders = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
    try:
        return max(
            (int((folder / "size").read_text().strip().removesuffix("K")) * 1024 for folder in folders), default=None
        )
    except (OSError, ValueError):
        return None


def run(results: Results, device: str, seconds: float | None, say: Callable[[str], None]) -> tuple[MeasuredRoofs, Path]:
    """Calibrate and write the file, while no sweep uses the results folder. UserError for bad input or a full disk."""
    seconds = DEFAULT_SECONDS[device] if seconds is None else seconds
    if not 0 < seconds < math.inf:
        raise UserError(f"--seconds {seconds:g}: give a time above 0, such as {DEFAULT_SECONDS[device]:g}")
    with locked(results):
        roofs = calibrate(device, seconds, say=lambda name: say(f"measuring {name}"))
        try:
            path = write(results.root / "roofs", roofs)
        except OSError as error:
            raise UserError(disk_message(error, results.root)) from error
    if roofs.quiet != "quiet":
        say(f"the machine was {roofs.quiet}: these rates may be too low; calibrate again when it is quiet")
    return roofs, path


def show(roofs: MeasuredRoofs, path: Path, as_json: bool) -> str:
    """The file's content, or a table with each rate's share of the datasheet's."""
    if as_json:
        return json.dumps(asdict(roofs), indent=2)
    datasheet = roof_of(roofs.device_name)
    peaks = datasheet.flops_per_second if datasheet else {}
    memory = dict.fromkeys(roofs.bytes_per_second, datasheet.bytes_per_second) if datasheet else {}
    threads = f", {roofs.thread_count} threads" if roofs.thread_count else ""
    head = ("", "median", "quartiles", "size", "repeats", "of datasheet")
    lines = [
        head,
        *(_line(name, rate, "FLOP/s", peaks.get(name)) for name, rate in roofs.flops_per_second.items()),
        *(_line(name, rate, "B/s", memory.get(name)) for name, rate in roofs.bytes_per_second.items()),
    ]
    widths = [max(len(line[column]) for line in lines if len(line) == len(head)) for column in range(len(head))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines]
    return "\n".join([f"{roofs.device_name}{threads}, torch {roofs.torch_version}, {roofs.quiet}", *table, str(path)])


def _line(name: str, rate: Rate, unit: str, peak: float | None) -> tuple[str, ...]:
    low, median, high = rate.lower_quartile_per_second, rate.median_per_second, rate.upper_quartile_per_second
    if low is None or median is None or high is None:
        return name, f"none: {rate.reason}"
    size = f"{rate.size:,} B" if unit == "B/s" else str(rate.size)
    share = f"{median / peak:.1%}" if peak else "-"
    return (
        name,
        _amount(median, unit),
        f"{_amount(low, unit)} to {_amount(high, unit)}",
        size,
        str(rate.repeat_count),
        share,
    )


def _amount(rate: float, unit: str) -> str:
    prefix, scale = ("T", 1e12) if rate >= 1e12 else ("G", 1e9)
    return f"{rate / scale:.4g} {prefix}{unit}"
