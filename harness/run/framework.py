"""Switches of the loaded framework that change numbers or speed, as they stand after a trial's window."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def framework_facts(device: str) -> dict[str, Any]:
    """Facts by name, with `reasons` for those that are None; only `reasons` where torch was not loaded.

    Read after the window, because a technique may have set a switch. Imports nothing and starts no device.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {"reasons": {"torch": "this trial loaded no torch"}}
    facts: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, ask in {**_anywhere(torch), **_on_gpu(torch)}.items():
        if device != "cuda" and name in _on_gpu(torch):
            reasons[name] = "measured on the processor"
            continue
        try:
            facts[name] = ask()
        except (AttributeError, RuntimeError) as error:  # torch refuses some of them after its own newer settings
            reasons[name] = f"torch does not tell: {str(error).splitlines()[0] if str(error) else 'no reason'}"
        if facts.get(name) is None:
            reasons.setdefault(name, "this build of torch has none")
    return {**dict.fromkeys(reasons), **facts, "reasons": reasons}


def _anywhere(torch: Any) -> dict[str, Callable[[], Any]]:
    sdp = torch.backends.cuda
    return {
        "torch_commit": lambda: torch.version.git_version,
        "torch_cuda": lambda: torch.version.cuda or "none",
        "default_dtype": lambda: str(torch.get_default_dtype()),
        "float32_matmul_precision": torch.get_float32_matmul_precision,
        # torch 2.9's own setting; once it is used, the older switches refuse to answer.
        "fp32_precision": lambda: torch.backends.cuda.matmul.fp32_precision,
        "bf16_reduced_precision_reduction": lambda: sdp.matmul.allow_bf16_reduced_precision_reduction,
        "fp16_reduced_precision_reduction": lambda: sdp.matmul.allow_fp16_reduced_precision_reduction,
        "attention_backends": lambda: _attention_backends(sdp),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
        "cudnn_deterministic": lambda: torch.backends.cudnn.deterministic,
        "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
        "threads": torch.get_num_threads,
        "interop_threads": torch.get_num_interop_threads,
        "mkldnn": lambda: torch.backends.mkldnn.enabled,
        "compiled_frames": _compiled_frames,
    }


def _on_gpu(torch: Any) -> dict[str, Callable[[], Any]]:
    return {
        "tf32_matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": lambda: torch.backends.cudnn.allow_tf32,
        "cudnn_version": torch.backends.cudnn.version,
        "allocator": torch.cuda.get_allocator_backend,
    }


def _attention_backends(sdp: Any) -> list[str]:
    """Those that `scaled_dot_product_attention` may choose from."""
    asked = {
        "flash": sdp.flash_sdp_enabled,
        "memory efficient": sdp.mem_efficient_sdp_enabled,
        "cudnn": sdp.cudnn_sdp_enabled,
        "math": sdp.math_sdp_enabled,
    }
    return [name for name, ask in asked.items() if ask()]


def _compiled_frames() -> int:
    """Python frames that torch.compile has compiled in this process; 0 is eager."""
    utilities: Any = sys.modules.get("torch._dynamo.utils")
    return int(utilities.counters["frames"]["ok"]) if utilities else 0
