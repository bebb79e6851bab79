"""Attention to a chosen part of the positions before, with models trained for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from harness.techniques.parts import PartTechnique


def at_least(least: int, **options: int) -> None:
    """ValueError that names the first option below `least`."""
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{name} is {value}; set it to {least} or more")


def strides(stride: int, length: int, size: int) -> None:
    """ValueError unless strides of overlapping windows fill both a window and a block, and a window fits in a block."""
    if length % stride or size % stride or length > size:
        raise ValueError(
            f"stride {stride}, length {length} and block_size {size} do not fit; "
            "let stride divide both others, and length be no more than block_size"
        )


@dataclass(frozen=True)
class NativeSparse(PartTechnique):
    """Attention to compressed blocks, to the best blocks and to a window, weighed by learned gates.

    Source: Yuan et al. 2025 (NSA), section 3. The paper's sizes (section 4.1): `length` 32, `stride` 16,
    `block_size` 64, `blocks` 16 (of which the first and the last two always), `window` 512, with 64 heads in 4 groups.
    """

    length: int = 8
    stride: int = 4
    block_size: int = 8
    blocks: int = 4
    window: int = 16

    family: ClassVar = "attention"
    paper: ClassVar = "NSA, arXiv 2502.11089"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        at_least(1, stride=self.stride, length=self.length, block_size=self.block_size, window=self.window)
        at_least(3, blocks=self.blocks)
        strides(self.stride, self.length, self.block_size)

    def parts(self) -> dict[str, Any]:
        """The mixer."""
        options = {"length": self.length, "stride": self.stride, "size": self.block_size, "count": self.blocks}
        return {"mixer": {"kind": "nsa", **options, "window": self.window}}


@dataclass(frozen=True)
class IndexedTopK(PartTechnique):
    """A lightning indexer picks the `top_k` tokens that a query attends to (DeepSeek sparse attention).

    Source: DeepSeek-V3.2, section 2.1, on grouped-query attention. The paper's sizes: `top_k` 2048, `index_heads` 64.
    """

    top_k: int = 24
    index_heads: int = 2

    family: ClassVar = "attention"
    paper: ClassVar = "DeepSeek-V3.2, arXiv 2512.02556"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        at_least(1, **asdict(self))

    def parts(self) -> dict[str, Any]:
        """The mixer."""
        return {"mixer": {"kind": "indexed", **asdict(self)}}


@dataclass(frozen=True)
class BlockTopK(PartTechnique):
    """A query attends to its own block of keys and to the others whose mean key suits it best, `blocks` in all.

    Source: Sadhukhan et al. 2025 (Kinetics), block top-k attention. Served models have blocks of 16 tokens and more.
    """

    block_size: int = 8
    blocks: int = 4

    family: ClassVar = "attention"
    paper: ClassVar = "Kinetics, arXiv 2506.05333"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        at_least(1, **asdict(self))

    def parts(self) -> dict[str, Any]:
        """The mixer."""
        return {"mixer": {"kind": "block_topk", "size": self.block_size, "count": self.blocks}}


@dataclass(frozen=True)
class InfLLM(PartTechnique):
    """InfLLM v2: the first, the last and the best blocks, scored by averaged stretches of keys; no new weights.

    Source: MiniCPM4, section 2. Its sizes: `length` 32, `stride` 16, `block_size` 64, `initial_blocks` 1,
    `local_blocks` 32 (a window of 2048 tokens), `dense_below` 8192. `blocks` counts all that a query sees.
    """

    length: int = 4
    stride: int = 2
    block_size: int = 8
    blocks: int = 4
    initial_blocks: int = 1
    local_blocks: int = 2
    dense_below: int = 40

    family: ClassVar = "attention"
    paper: ClassVar = "MiniCPM4 (InfLLM v2), arXiv 2506.07900"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        at_least(0, initial_blocks=self.initial_blocks, dense_below=self.dense_below)
        at_least(1, stride=self.stride, length=self.length, block_size=self.block_size, local_blocks=self.local_blocks)
        strides(self.stride, self.length, self.block_size)
        always = self.initial_blocks + self.local_blocks
        if self.blocks < always:
            raise ValueError(
                f"blocks is {self.blocks}, but {always} are seen whatever their score; set it to {always} or more"
            )

    def parts(self) -> dict[str, Any]:
        """The mixer."""
        options = {"length": self.length, "stride": self.stride, "size": self.block_size, "count": self.blocks}
        always = {"initial": self.initial_blocks, "local": self.local_blocks, "dense_below": self.dense_below}
        return {"mixer": {"kind": "infllm", **options, **always}}
