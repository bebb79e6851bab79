"""A pretended GPU behind NVIDIA's management library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from harness.machine import gpu


class NVMLError(Exception):
    """As pynvml's."""


class FakeNVML(ModuleType):
    """A GPU that draws `watts`, whose counter moves every `period` seconds of its own clock."""

    NVMLError = NVMLError
    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_SUCCESS = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.now, self.period, self.watts, self.name = 1000.0, 0.1, 500.0, "NVIDIA H100 80GB HBM3"
        self.has_counter = self.has_instant_power = True
        self.has_gpm = False
        self.gpm_error = ""

    def nvmlInit(self) -> None:
        """Nothing to start."""

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.name

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return "GPU-0aa5c0de-1111-2222-3333-444455556666"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.has_counter:
            raise NVMLError("Not Supported")
        return int(self.now // self.period * self.period * self.watts * 1e3)

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[Any]:
        value = SimpleNamespace(uiVal=int(self.watts * 1e3))
        return [SimpleNamespace(nvmlReturn=0 if self.has_instant_power else 3, value=value) for _ in fields]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=80)

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 55

    def nvmlGpmQueryDeviceSupport(self, handle: int) -> Any:
        if self.gpm_error:
            raise NVMLError(self.gpm_error)
        return SimpleNamespace(isSupportedDevice=int(self.has_gpm))


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNVML]:
    """The one GPU of this machine, for the duration of a test."""
    found = FakeNVML()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for cached in (gpu._started_nvml, gpu.gpu_count):
        cached.cache_clear()
    yield found
    for cached in (gpu._started_nvml, gpu.gpu_count):
        cached.cache_clear()
