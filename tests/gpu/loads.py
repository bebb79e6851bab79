"""What the tests on a GPU let it do."""

from __future__ import annotations

import torch

from harness.interfaces import Session, Work

SIZE = 8192


class Products(Session):
    """Square bfloat16 products of normally distributed numbers, with all the work they claim."""

    def __init__(self, repeats: int = 8) -> None:
        self.a = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
        self.out, self.repeats = torch.empty_like(self.a), repeats

    def step(self) -> None:
        for _ in range(self.repeats):
            torch.mm(self.a, self.a, out=self.out)

    def work(self) -> Work:
        return Work(
            samples=1,
            trained_tokens=1,
            model_flops=2.0 * SIZE**3 * self.repeats,
            moved_bytes=3.0 * SIZE**2 * 2 * self.repeats,
            dtype="bfloat16",
        )
