"""The four peaks (allocated, reserved, device, host), by phase, and what holds the bytes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, ClassVar

from harness.interfaces import Meter, Metric, Readings, Session, Window
from harness.meters import resident
from harness.meters.tensor_peak import profiled_peak

PHASES = ("load", "warmup", "step", "quality")


class Memory(Meter):
    """Peaks by phase. `step` is what the report compares; `load` may be higher and says what loading needs.

    On a GPU `allocated` and `reserved` are the caching allocator's, reset at each phase. On a CPU `allocated` comes
    from a step of its own under the profiler's allocation events, on top of what tensors held before it; there is no
    reserve to report. `host` is the kernel's high-water mark of resident memory, which includes the libraries.
    """

    period_seconds = 0.1
    metrics: ClassVar = (
        Metric("peak_allocated_bytes", "peak of bytes held by tensors during a step", "lower"),
        Metric("peak_reserved_bytes", "peak that the GPU allocator reserved during the steps: does it fit", "lower"),
        Metric("peak_device_bytes", "peak of the GPU's used memory by NVML, all processes, sampled", "lower"),
        Metric("peak_host_bytes", "peak resident host memory of the process during the steps", "lower"),
        Metric("peak_load_allocated_bytes", "peak of bytes held by tensors while loading; null on a CPU", "lower"),
        Metric("peak_load_host_bytes", "peak resident host memory while loading", "lower"),
        Metric("peak_warmup_host_bytes", "peak resident host memory during the warm-up", "lower"),
        Metric("framework_host_bytes", "resident host memory before the model: interpreter and libraries"),
        Metric("mean_allocated_bytes", "time average of bytes held by tensors; null on a CPU", "lower"),
        Metric("mean_host_bytes", "time average of resident host memory during the steps", "lower"),
        Metric("weights_bytes", "bytes of parameters and buffers as stored", "lower"),
        Metric("gradient_bytes", "bytes of the gradients kept after a step", "lower"),
        Metric("optimizer_state_bytes", "bytes that the optimizer holds beside the parameters", "lower"),
        Metric("kv_cache_bytes", "bytes that the cache holds", "lower"),
    )

    def open(self, device: str) -> None:
        """Note what the process holds before anything is loaded."""
        self.cuda = device == "cuda"
        self.host_peaks: dict[str, int | None] = {}
        self.device_peaks: dict[str, tuple[int, int]] = {}
        self.current: str | None = None
        self.host_samples: list[int] = []
        self.allocated_samples: list[int] = []
        self.device_samples: list[int] = []
        self.framework = resident.status_bytes("VmRSS")
        self.step_peak: int | None = None
        self.handle: Any = None
        if self.cuda:
            import torch

            from harness.gpu import nvml_handle

            torch.cuda.init()  # the allocator has no peaks to reset before there is a context
            self.handle = nvml_handle()

    def phase(self, name: str) -> None:
        """Close the phase before and reset the marks."""
        self._close()
        self.current = name
        resident.reset_peak()
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def sample(self) -> None:
        """One reading of each average."""
        held = resident.resident_bytes()
        if held is not None:
            self.host_samples.append(held)
        if self.cuda:
            import torch

            from harness.gpu import nvml

            self.allocated_samples.append(torch.cuda.memory_allocated())
            self.device_samples.append(int(nvml().nvmlDeviceGetMemoryInfo(self.handle).used))

    def stop(self) -> None:
        """The steps are over: read their peaks before quality is evaluated."""
        self.sample()
        self._close()

    def probe(self, session: Session) -> None:
        """On a CPU: one more step under the profiler."""
        if not self.cuda:
            self.step_peak = profiled_peak(session)

    def readings(self, window: Window) -> Readings:
        """Peaks, averages and what the session's objects hold."""
        values: dict[str, float | None] = {"framework_host_bytes": self.framework}
        reasons: dict[str, str] = {}
        for name, phase in (
            ("peak_host_bytes", "step"),
            ("peak_load_host_bytes", "load"),
            ("peak_warmup_host_bytes", "warmup"),
        ):
            values[name] = self.host_peaks.get(phase)
            if values[name] is None:
                reasons[name] = "the kernel does not let this process reset its high-water mark"
        values["mean_host_bytes"] = statistics.fmean(self.host_samples) if self.host_samples else None
        if self.cuda:
            values["peak_allocated_bytes"], values["peak_reserved_bytes"] = self.device_peaks["step"]
            values["peak_load_allocated_bytes"] = self.device_peaks["load"][0]
            values["mean_allocated_bytes"] = (
                statistics.fmean(self.allocated_samples) if self.allocated_samples else None
            )
            values["peak_device_bytes"] = max(self.device_samples, default=None)
        else:
            values["peak_allocated_bytes"] = self.step_peak
            for name in (
                "peak_reserved_bytes",
                "peak_device_bytes",
                "peak_load_allocated_bytes",
                "mean_allocated_bytes",
            ):
                reasons[name] = "torch's CPU allocator keeps no such count"
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

    def _close(self) -> None:
        if self.current is None:
            return
        self.host_peaks[self.current] = resident.status_bytes("VmHWM") if resident.PEAK_RESETS.get("works") else None
        if self.cuda:
            import torch

            self.device_peaks[self.current] = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
        self.current = None
