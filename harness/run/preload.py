"""What the trials' server loads once, before it forks; the only module here that works at import.

A process in which CUDA was initialised leaves forks that cannot use it. Some libraries ask at import which GPU there
is, which initialises it; so that question is answered from NVML here, with the same answer.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from types import SimpleNamespace
from unittest.mock import patch

# Libraries warn at import about extensions that they lack; that belongs into a file, not between a sweep's lines.
if os.environ.get("HARNESS_SERVER_LOG"):
    _log = os.open(os.environ["HARNESS_SERVER_LOG"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(_log, 1)
    os.dup2(_log, 2)
    os.close(_log)

from harness.machine.gpu import compute_capability

_MODULES = (
    "torch.profiler",
    "torch.utils.flop_counter",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "transformers.generation",
    "transformers.integrations.bitsandbytes",
    "safetensors.torch",
    "peft",
    "torchao.quantization",
    "codecarbon.external.ram",
    "pydantic",
    "pynvml",
    "harness.run.execute",
    "harness.run.worker",
)


def _load() -> None:
    for name in _MODULES:
        # A library that does not import here fails again, with its message, in the trial that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _has_gpu() -> bool:
    with contextlib.suppress(ImportError):
        import torch.cuda

        return torch.cuda.is_available()
    return False


def _load_without_starting_cuda() -> None:
    import torch.cuda
    from torch._dynamo.device_interface import CudaInterface
    from torch.utils import _triton

    major, minor = compute_capability()

    def properties(device: object = None) -> SimpleNamespace:
        return SimpleNamespace(major=major, minor=minor)

    # torchao asks whether Triton works here, and torch keeps the first answer.
    with patch.object(CudaInterface.Worker, "get_device_properties", properties):
        _triton.has_triton()
    # bitsandbytes and torchao choose their kernels by the capability.
    with patch.object(torch.cuda, "get_device_capability", lambda device=None: (major, minor)):
        _load()


if _has_gpu():
    _load_without_starting_cuda()
else:
    _load()

# Forks share these pages, and a trial's search for live tensors does not walk them.
gc.collect()
gc.freeze()
