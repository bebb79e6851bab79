"""What a window's work is held against: the datasheet's peak, that at the measured clock, and this machine's own."""

from __future__ import annotations

from harness.machine import measured_roofs
from harness.meters.roofs import roof_of


class Peaks:
    """The peaks of one device, each with the reason where there is none."""

    def __init__(self, device: str, part: str) -> None:
        self.part = part
        self.datasheet = roof_of(part) if device == "cuda" else None
        self.measured, self.no_measured = measured_roofs.read(device)

    def datasheet_flops(self, dtype: str) -> tuple[float | None, str]:
        """FLOPs per second by the datasheet."""
        if self.datasheet is None:
            return None, self._no_datasheet()
        return self.datasheet.flops_per_second.get(dtype), f"no peak for {dtype} on this part"

    def flops_at(self, clock_hertz: float | None, dtype: str) -> tuple[float | None, str]:
        """FLOPs per second of all multiprocessors at a clock: what is lost to it leaves this ratio alone."""
        if self.datasheet is None:
            return None, self._no_datasheet()
        if clock_hertz is None:
            return None, "the clock was not read in the window"
        per_clock = self.datasheet.flops_per_clock.get(dtype)
        if per_clock is None:
            return None, f"no peak for {dtype} on this part"
        return self.datasheet.multiprocessor_count * per_clock * clock_hertz, ""

    def measured_flops(self, dtype: str) -> tuple[float | None, str]:
        """FLOPs per second that a large matrix product reached on this very device."""
        if self.measured is None:
            return None, self.no_measured
        rate = self.measured.flops_per_second.get(dtype)
        if rate is None:
            return None, f"no rate of {dtype} products was measured here: {measured_roofs.ADVICE}"
        return rate.median_per_second, f"{dtype} products do not run here: {rate.reason}"

    def datasheet_bytes(self) -> tuple[float | None, str]:
        """Bytes per second by the datasheet."""
        if self.datasheet is None:
            return None, self._no_datasheet()
        return self.datasheet.bytes_per_second, ""

    def measured_bytes(self, moved: float | None) -> tuple[float | None, str]:
        """Bytes per second that memory reached on this very device; none for `moved` bytes that its cache can hold."""
        if self.measured is None:
            return None, self.no_measured
        if moved is not None and moved <= (self.measured.cache_bytes or 0):
            return None, "the bytes of a step fit in the device's last cache, so memory need not move them"
        return self.measured.memory_bytes_per_second(), "no memory rate could be measured here"

    def _no_datasheet(self) -> str:
        return f"no datasheet peak is kept for {self.part!r}"
