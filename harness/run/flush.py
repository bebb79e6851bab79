"""Cold caches: what a step left in them is written over before the next one starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Bytes of last-level cache where the kernel does not say.
UNKNOWN_CACHE_BYTES = 32 * 2**20


class Flush:
    """A buffer of twice the device's last-level cache. Calling it reads and writes all of it.

    Plain stores may bypass a processor's caches, so every byte is read first. On a GPU the call returns at once: the
    device has still to be synchronised.
    """

    def __init__(self, device: str) -> None:
        import torch

        self.bytes = 2 * last_level_cache_bytes(device)
        self.buffer = torch.zeros(self.bytes, dtype=torch.uint8, device=device)

    def __call__(self) -> None:
        """Add one to every byte."""
        self.buffer.add_(1)


def last_level_cache_bytes(device: str) -> int:
    """L2 of the GPU; the largest cache of the first core, or UNKNOWN_CACHE_BYTES where the kernel shows none."""
    if device == "cuda":
        import torch

        properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
        return int(properties.L2_cache_size)
    return _processor_cache_bytes(Path("/sys/devices/system/cpu/cpu0/cache"))


def _processor_cache_bytes(caches: Path) -> int:
    found = []
    for path in caches.glob("index*/size"):
        try:
            text = path.read_text().strip()
            found.append(int(text.rstrip("KMG")) * 1024 ** (" KMG".index(text[-1]) if text[-1] in "KMG" else 0))
        except (OSError, ValueError, IndexError):
            continue
    return max(found, default=UNKNOWN_CACHE_BYTES)
