"""What the trials' server loads once, before it forks; the only module here that works at import."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os

# Libraries warn at import about extensions that they lack; that belongs into a file, not between a sweep's lines.
if os.environ.get("HARNESS_SERVER_LOG"):
    _log = os.open(os.environ["HARNESS_SERVER_LOG"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(_log, 1)
    os.dup2(_log, 2)
    os.close(_log)

for _name in (
    "torch",
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
    "harness.execute",
    "harness.worker",
):
    # A library that does not import here fails again, with its message, in the trial that needs it.
    with contextlib.suppress(Exception):
        importlib.import_module(_name)

# Forks share these pages, and a trial's search for live tensors does not walk them.
gc.collect()
gc.freeze()
