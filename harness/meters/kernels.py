"""Work whose rate is a roof: square matrix products by dtype, and memory that is copied or read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kernel:
    """One kind of work: `make(size)` returns a call that does `work(size)` FLOPs or bytes."""

    name: str
    make: Callable[[int], Callable[[], Any]]
    work: Callable[[int], float]


def products(device: str) -> list[Kernel]:
    """Square products by dtype; `size` is their edge.

    The numbers are normally distributed, because zeros draw less power and so run faster.
    """
    import torch

    def normal(size: int) -> Any:
        return torch.randn(size, size, device=device)

    def plain(dtype: Any, precision: str) -> Callable[[int], Callable[[], Any]]:
        def make(size: int) -> Callable[[], Any]:
            torch.set_float32_matmul_precision(precision)
            a, b = normal(size).to(dtype), normal(size).to(dtype)
            out = torch.empty_like(a)
            return lambda: torch.mm(a, b, out=out)

        return make

    # Eight bits: tensor cores want the second matrix by columns.
    def int8(size: int) -> Callable[[], Any]:
        a, b = ((normal(size) * 32).clamp(-127, 127).to(torch.int8) for _ in range(2))
        out = torch.empty(size, size, device=device, dtype=torch.int32)
        return lambda: torch._int_mm(a, b.t(), out=out)

    def float8(size: int) -> Callable[[], Any]:
        a, b = (normal(size).to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.ones((), device=device)
        out = torch.empty(size, size, device=device, dtype=torch.bfloat16)
        options = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
        return lambda: torch._scaled_mm(a, b.t(), out=out, **options)

    makers = {"float32": plain(torch.float32, "highest")}
    if device == "cuda":
        makers["tf32"] = plain(torch.float32, "high")
    makers |= {
        "bfloat16": plain(torch.bfloat16, "highest"),
        "float16": plain(torch.float16, "highest"),
        "int8": int8,
        "float8": float8,
    }
    return [Kernel(name, make, lambda size: 2.0 * size**3) for name, make in makers.items()]


def memory(device: str) -> list[Kernel]:
    """A copy, of which bytes read and written count, and a sum, which only reads, as decoding mostly does.

    `size` is the bytes of a tensor.
    """
    import torch

    def copy(size: int) -> Callable[[], Any]:
        source = torch.randn(size // 4, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    def read(size: int) -> Callable[[], Any]:
        source = torch.randn(size // 4, device=device)
        return lambda: source.sum()

    return [Kernel("copy", copy, lambda size: 2.0 * size), Kernel("read", read, float)]
