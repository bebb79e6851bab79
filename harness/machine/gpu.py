"""The GPU through NVIDIA's management library, without torch and without a CUDA context."""

from __future__ import annotations

import os
from functools import cache
from typing import Any


@cache
def gpu_count() -> int:
    """GPUs that NVML reports and CUDA_VISIBLE_DEVICES leaves visible; 0 without a driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return 0


def nvml() -> Any:
    """NVIDIA's management library, started. Its stubs are unions that no checker can follow, hence Any."""
    return _started_nvml(os.getpid())


@cache
def _started_nvml(process: int) -> Any:
    """A fork has to start the library anew."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def nvml_handle() -> Any:
    """NVML's handle of the first visible GPU. CUDA's numbering and NVML's differ, so UUIDs and indices both work."""
    library = nvml()
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
    if first.startswith(("GPU-", "MIG-")):
        return library.nvmlDeviceGetHandleByUUID(first)
    return library.nvmlDeviceGetHandleByIndex(int(first))


def gpu_facts() -> dict[str, Any]:
    """Static facts of the first visible GPU, each None where the driver does not tell."""
    library = nvml()
    handle = nvml_handle()

    def ask(function: Any, *arguments: Any) -> Any:
        try:
            return function(handle, *arguments)
        except library.NVMLError:
            return None

    limit = ask(library.nvmlDeviceGetEnforcedPowerLimit)
    default_limit = ask(library.nvmlDeviceGetPowerManagementDefaultLimit)
    memory = ask(library.nvmlDeviceGetMemoryInfo)
    address = ask(library.nvmlDeviceGetPciInfo)
    return {
        "name": ask(library.nvmlDeviceGetName),
        "uuid": ask(library.nvmlDeviceGetUUID),
        "pci_bus_id": _text(address.busId) if address else None,
        "pcie_generation": ask(library.nvmlDeviceGetMaxPcieLinkGeneration),
        "pcie_width": ask(library.nvmlDeviceGetMaxPcieLinkWidth),
        "count": library.nvmlDeviceGetCount(),
        "vbios": ask(library.nvmlDeviceGetVbiosVersion),
        "driver_version": library.nvmlSystemGetDriverVersion(),
        "cuda_driver_version": _cuda_version(library.nvmlSystemGetCudaDriverVersion()),
        "power_limit_watts": limit / 1000 if limit is not None else None,
        "default_power_limit_watts": default_limit / 1000 if default_limit is not None else None,
        "maximum_sm_clock_hertz": _scaled(ask(library.nvmlDeviceGetMaxClockInfo, library.NVML_CLOCK_SM), 1e6),
        "maximum_memory_clock_hertz": _scaled(ask(library.nvmlDeviceGetMaxClockInfo, library.NVML_CLOCK_MEM), 1e6),
        "memory_total_bytes": memory.total if memory else None,
        "persistence_mode": ask(library.nvmlDeviceGetPersistenceMode),
        "compute_mode": ask(library.nvmlDeviceGetComputeMode),
        "ecc_mode": ask(library.nvmlDeviceGetEccMode),
        "mig_mode": ask(library.nvmlDeviceGetMigMode),
    }


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def gpu_name() -> str:
    """The part's name as NVML has it, such as `NVIDIA H100 80GB HBM3`."""
    return str(nvml().nvmlDeviceGetName(nvml_handle()))


def compute_capability() -> tuple[int, int]:
    """The first visible GPU's compute capability, such as (9, 0), without initialising CUDA."""
    major, minor = nvml().nvmlDeviceGetCudaComputeCapability(nvml_handle())
    return major, minor
