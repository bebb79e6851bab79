"""The clock of a GPU's multiprocessors during one sample: its cycles over its nanoseconds, both read on the device.

NVIDIA's NVBench measures it in the same way. It needs no privileges, sees every sample, and costs two tiny kernels that
lie outside the sample's timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Samples below this share of the part's default clock are counted as slow (NVBench's limit).
SLOW_RATIO = 0.75


class SampleClock:
    """Call `begin` before a sample and `end` after it, each outside its timing and on the sample's stream."""

    def __init__(self) -> None:
        """Compile the kernel and run it once. ImportError without Triton; Triton's own errors where it cannot build."""
        import torch

        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.kernel = _stamp_kernel()
        # Twice as many programs as multiprocessors, so that each of them runs one whichever ran the first.
        self.programs = 2 * device.multi_processor_count
        # The device writes into the host's pinned memory: nothing is held on the device, and no copy is queued.
        stamps = torch.zeros(2, self.programs, 3, dtype=torch.int64, pin_memory=True)
        self.begins, self.ends = stamps[0], stamps[1]
        self.begin()
        self.end()

    def begin(self) -> None:
        """Queue the first stamp; the caller synchronises before the sample's clocks start."""
        self.kernel[(self.programs,)](self.begins, num_warps=1)

    def end(self) -> float | None:
        """Take the second stamp and wait for it; the clock in hertz since `begin`, or None."""
        import torch

        self.kernel[(self.programs,)](self.ends, num_warps=1)
        torch.cuda.synchronize()
        return hertz(self.begins[0].tolist(), self.ends.tolist())


def hertz(begin: Sequence[int], ends: Sequence[Sequence[int]]) -> float | None:
    """Cycles over time between two stamps (multiprocessor, cycles, nanoseconds) of one multiprocessor, or None.

    Each multiprocessor counts from a start of its own, so stamps of two of them have nothing in common.
    """
    for multiprocessor, cycles, nanoseconds in ends:
        if multiprocessor == begin[0] and nanoseconds > begin[2] and cycles > begin[1]:
            return (cycles - begin[1]) / (nanoseconds - begin[2]) * 1e9
    return None


def _stamp_kernel() -> Any:
    import triton
    import triton.language as tl

    @triton.jit
    def stamp(out):
        cycles, nanoseconds, multiprocessor = tl.inline_asm_elementwise(
            "mov.u64 $0, %clock64; mov.u64 $1, %globaltimer; mov.u32 $2, %smid;",
            "=l,=l,=r",
            args=[],
            dtype=(tl.int64, tl.int64, tl.int32),
            is_pure=False,
            pack=1,
        )
        row = out + 3 * tl.program_id(0)
        tl.store(row, multiprocessor.to(tl.int64))
        tl.store(row + 1, cycles)
        tl.store(row + 2, nanoseconds)

    return stamp
