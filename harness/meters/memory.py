"""The four peaks (allocated, reserved, device, host), by phase, and what holds the bytes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from harness.interfaces import Meter, Metric, Readings, Session, Window
from harness.meters import resident
from harness.meters.block_lives import PARTS
from harness.meters.memory_formulas import NAMES as EXPECTED

#: The prefix of a phase's columns; `step` is what the report compares, and `load` says what loading needs.
PHASES = {"load": "peak_load", "warmup": "peak_warmup", "step": "peak"}
DEVICE_ONLY = "torch's CPU allocator keeps no such count"
_PHASE_METRICS = tuple(
    Metric(f"{prefix}_{kind}_bytes", f"{meaning} during {during}", "lower")
    for prefix, during in (("peak", "the steps"), ("peak_load", "loading"), ("peak_warmup", "the warm-up"))
    for kind, meaning in (
        ("allocated", "peak of bytes held by tensors"),
        ("reserved", "peak that the GPU allocator reserved (does it fit)"),
        ("device", "peak of the GPU's used memory by NVML, all processes, read at intervals"),
        ("host", "peak resident host memory of the process"),
    )
)
_MEANINGS = {
    "weights": "parameters and buffers",
    "gradient": "gradients of parameters",
    "optimizer_state": "what the optimizer holds beside the parameters",
    "kv_cache": "keys and values in the cache",
    "activation": "results of the forward and backward pass, kept or on their way",
    "workspace": "scratch of operations, libraries and the optimizer's update",
    "other": "tensors from before the step that none of these owns: batches, evaluation data",
    "unattributed": "bytes that the allocator counts and nothing explains",
}


class Memory(Meter):
    """Peaks by phase, and the anatomy of a step's peak.

    On a GPU `allocated` and `reserved` are the caching allocator's, reset at each phase. On a CPU `allocated` comes
    from a step of its own under the profiler's allocation events, on top of what tensors held before it; there is no
    reserve to report. `host` is the kernel's high-water mark of resident memory, which includes the libraries.
    """

    period_seconds = 0.1
    metrics: ClassVar = (
        *_PHASE_METRICS,
        Metric("peak_requested_bytes", "peak of bytes asked of the GPU allocator, before it rounds them up", "lower"),
        Metric("fragmentation_bytes", "peak reserved less peak allocated during the steps", "lower"),
        Metric("allocator_retries_count", "times the GPU allocator ran out and emptied its cache, warm-up on", "lower"),
        Metric("gpu_context_bytes", "GPU memory in use since the start that the allocator has not reserved", "lower"),
        Metric("peak_host_children_bytes", "largest resident peak of one child process up to the steps' end", "lower"),
        Metric("framework_host_bytes", "resident host memory before the model: interpreter and libraries"),
        Metric("mean_allocated_bytes", "time average of bytes held by tensors in the window; null on a CPU", "lower"),
        Metric("mean_host_bytes", "time average of resident host memory in the window", "lower"),
        Metric("weights_bytes", "bytes of parameters and buffers as stored", "lower"),
        Metric("gradient_bytes", "bytes of the gradients kept after a step", "lower"),
        Metric("optimizer_state_bytes", "bytes that the optimizer holds beside the parameters", "lower"),
        Metric("kv_cache_bytes", "bytes that the cache holds", "lower"),
        Metric("peak_probed_bytes", "peak of bytes held by tensors in the step that was taken apart", "lower"),
        *(Metric(f"peak_{part}_bytes", f"of peak_probed_bytes: {_MEANINGS[part]}", "lower") for part in PARTS),
        Metric("expected_weights_bytes", "parameters of the architecture x bytes of the dtype"),
        Metric("expected_gradient_bytes", "trained parameters x bytes of their dtype"),
        Metric("expected_optimizer_state_bytes", "states that the method keeps, such as Adam's two, x their bytes"),
        Metric("expected_kv_cache_bytes", "keys and values of the cached tokens, after the step taken apart"),
    )

    def open(self, device: str) -> None:
        """Note what the process and the GPU hold before anything is loaded."""
        self.device, self.cuda = device, device == "cuda"
        self.peaks: dict[str, dict[str, int | None]] = {}
        self.current: str | None = None
        self.host_samples: list[tuple[float, int]] = []
        self.allocated_samples: list[tuple[float, int]] = []
        self.device_samples: list[int] = []
        self.context_samples: list[int] = []
        self.framework = resident.status_bytes("VmRSS")
        self.own_peak = resident.status_bytes("VmHWM") or 0
        self.children: int | str = "the window was not reached"
        self.retries = [0, 0]
        self.probed: dict[str, float | str] = {}
        self.handle: Any = None
        if self.cuda:
            import torch

            from harness.machine.gpu import nvml_handle

            self.handle = nvml_handle()
            self.before = self._device_used() - torch.cuda.memory_reserved()
            torch.cuda.init()  # the allocator has no peaks to reset before there is a context

    def phase(self, name: str) -> None:
        """Close the phase before and reset the marks."""
        self._close()
        self.current = name
        resident.reset_peak()
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            if name == "warmup":
                self.retries[0] = torch.cuda.memory_stats().get("num_alloc_retries", 0)

    def start(self) -> None:
        """The averages are over the window alone."""
        self.host_samples.clear()
        self.allocated_samples.clear()
        self.sample()

    def sample(self) -> None:
        """One reading of each average."""
        now, held = time.perf_counter(), resident.resident_bytes()
        if held is not None:
            self.host_samples.append((now, held))
        if self.cuda:
            import torch

            self.allocated_samples.append((now, torch.cuda.memory_allocated()))
            reserved, used = torch.cuda.memory_reserved(), self._device_used()
            self.device_samples.append(used)
            self.context_samples.append(used - reserved - self.before)

    def stop(self) -> None:
        """The steps are over: read their peaks before quality is evaluated."""
        self.sample()
        self._close()
        self.children = resident.children_peak_bytes(self.own_peak)
        if self.cuda:
            import torch

            self.retries[1] = torch.cuda.memory_stats().get("num_alloc_retries", 0)

    def probe(self, session: Session) -> None:
        """One more step, taken apart, and what the formulas say of the objects that are alive after it."""
        if "torch" not in sys.modules:
            return
        from harness.meters.memory_anatomy import anatomy_of
        from harness.meters.memory_formulas import expectations
        from harness.meters.memory_owners import find_owners

        anatomy = anatomy_of(session, self.device)
        if anatomy is not None:
            self.probed = {"peak_probed_bytes": anatomy.peak_bytes}
            self.probed |= {f"peak_{part}_bytes": size for part, size in anatomy.parts.items()}
        self.probed |= expectations(find_owners())

    def readings(self, window: Window) -> Readings:
        """Peaks, averages, the parts of the peak and what the session's objects hold."""
        values: dict[str, float | None] = {"framework_host_bytes": self.framework}
        reasons: dict[str, str] = {}
        self._read_phases(values, reasons)
        values["mean_host_bytes"] = time_average(self.host_samples)
        found = {**dict.fromkeys(_probed_names(), "the step held no tensor that torch counts"), **self.probed}
        found["peak_host_children_bytes"] = self.children
        if self.cuda:
            values |= self._read_gpu(values)
        else:
            found["peak_allocated_bytes"] = found["peak_probed_bytes"]
        for name, value in found.items():
            if isinstance(value, str):
                reasons[name] = value
            else:
                values[name] = value
        for name in ("weights_bytes", "gradient_bytes", "optimizer_state_bytes", "kv_cache_bytes"):
            if name in window.held_bytes:
                values[name] = window.held_bytes[name]
            else:
                reasons[name] = "this workload holds none"
        source = "cuda caching allocator" if self.cuda else "profiler's allocation events in a step of its own"
        return Readings(values, reasons, {"allocated_source": source})

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        peak = (
            "kernel high-water mark, reset by phase"
            if resident.reset_peak()
            else "unavailable: clear_refs is not writable"
        )
        allocated = "CUDA caching allocator" if device == "cuda" else "profiler's allocation events, a step of its own"
        gpu = "NVML" if device == "cuda" else "unavailable: no GPU"
        return {"host memory": peak, "tensor memory": allocated, "device memory": gpu}

    def _read_phases(self, values: dict[str, float | None], reasons: dict[str, str]) -> None:
        for phase, prefix in PHASES.items():
            peaks = self.peaks.get(phase, {})
            for kind in ("allocated", "reserved", "device", "host"):
                values[f"{prefix}_{kind}_bytes"] = peaks.get(kind)
                reasons[f"{prefix}_{kind}_bytes"] = DEVICE_ONLY
            reasons[f"{prefix}_host_bytes"] = "the kernel does not let this process reset its high-water mark"
        reasons["gpu_context_bytes"] = "another process gave GPU memory back meanwhile"
        if not self.cuda:
            for name in ("peak_requested", "fragmentation", "gpu_context", "mean_allocated"):
                reasons[f"{name}_bytes"] = DEVICE_ONLY
            reasons["allocator_retries_count"] = DEVICE_ONLY

    def _read_gpu(self, values: Mapping[str, float | None]) -> dict[str, float | None]:
        allocated, reserved = values["peak_allocated_bytes"], values["peak_reserved_bytes"]
        context = statistics.median(self.context_samples)
        return {
            "peak_requested_bytes": self.peaks["step"]["requested"],
            "fragmentation_bytes": None if reserved is None or allocated is None else reserved - allocated,
            "allocator_retries_count": self.retries[1] - self.retries[0],
            "gpu_context_bytes": context if context >= 0 else None,
            "mean_allocated_bytes": time_average(self.allocated_samples),
        }

    def _close(self) -> None:
        if self.current is None:
            return
        mark = resident.status_bytes("VmHWM")
        self.own_peak = max(self.own_peak, mark or 0)
        peaks: dict[str, int | None] = {"host": mark if resident.PEAK_RESETS.get("works") else None}
        if self.cuda:
            import torch

            counts = torch.cuda.memory_stats()
            # What the allocator reserves it rarely gives back, so a phase's end is near its peak.
            self.device_samples.append(self._device_used())
            peaks |= {
                "allocated": torch.cuda.max_memory_allocated(),
                "reserved": torch.cuda.max_memory_reserved(),
                "requested": counts.get("requested_bytes.all.peak"),
                "device": max(self.device_samples),
            }
            self.device_samples.clear()
        self.peaks[self.current], self.current = peaks, None

    def _device_used(self) -> int:
        from harness.machine.gpu import nvml

        return int(nvml().nvmlDeviceGetMemoryInfo(self.handle).used)


def time_average(samples: Sequence[tuple[float, int]]) -> float | None:
    """The mean over time of (seconds, value) readings, each interval by its length; None below two moments.

    The sampling thread and the window's ends add their readings in any order.
    """
    spans = [(after[0] - before[0], (before[1] + after[1]) / 2) for before, after in pairwise(sorted(samples))]
    total = sum(span for span, _ in spans)
    return sum(span * value for span, value in spans) / total if total > 0 else None


def _probed_names() -> Iterable[str]:
    return ("peak_probed_bytes", *(f"peak_{part}_bytes" for part in PARTS), *EXPECTED)
