"""Activity of a GPU's units by NVML's GPM counters (Hopper and newer): mean between two samples."""

from __future__ import annotations

from typing import Any

from harness.machine import gpu


def metric_numbers() -> dict[str, int]:
    nvml = gpu.nvml()
    return {
        "sm_active_ratio": nvml.NVML_GPM_METRIC_SM_UTIL,
        "tensor_active_ratio": nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
        "dram_active_ratio": nvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    }


def sample(handle: Any) -> tuple[Any, str]:
    """A sample of the GPM counters, or None and why (they need Hopper or newer)."""
    nvml = gpu.nvml()
    try:
        if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
            return None, "unavailable: this GPU has no GPM counters (Hopper and newer have)"
        return nvml.nvmlGpmSampleGet(handle, nvml.nvmlGpmSampleAlloc()), ""
    except nvml.NVMLError as error:
        return None, f"unavailable: NVML GPM answers {error}"


def difference(handle: Any, first: Any) -> tuple[dict[str, float], str]:
    """Mean activity between the first sample and now, as ratios."""
    nvml = gpu.nvml()
    second, reason = sample(handle)
    if second is None:
        return {}, reason
    request = nvml.c_nvmlGpmMetricsGet_t()
    request.version = nvml.NVML_GPM_METRICS_GET_VERSION
    wanted = metric_numbers()
    request.numMetrics, request.sample1, request.sample2 = len(wanted), first, second
    for index, metric in enumerate(wanted.values()):
        request.metrics[index].metricId = metric
    try:
        nvml.nvmlGpmMetricsGet(request)
    except nvml.NVMLError as error:
        return {}, f"unavailable: NVML GPM answers {error}"
    finally:
        nvml.nvmlGpmSampleFree(first)
        nvml.nvmlGpmSampleFree(second)
    found = {}
    for index, name in enumerate(wanted):
        if request.metrics[index].nvmlReturn == nvml.NVML_SUCCESS:
            found[name] = request.metrics[index].value / 100
    return found, "NVML GPM gave no value"
