"""Byte-level text, split into a part to train on and a part held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: One document in this many is held out.
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Text:
    """Two one-dimensional uint8 tensors, and what identifies them."""

    train: Any
    held_out: Any
    sha256: str
    documents: int

    @property
    def size_bytes(self) -> int:
        """Bytes of both parts."""
        return len(self.train) + len(self.held_out)


def split(documents: Iterable[bytes]) -> Text:
    """Put each document whole into one part, by a hash of its content: equal documents never stand in both parts.

    ValueError when either part would be empty.
    """
    import torch

    train, held_out, total, count = bytearray(), bytearray(), hashlib.sha256(), 0
    for document in documents:
        digest = hashlib.sha256(document).digest()
        total.update(digest)
        count += 1
        part = held_out if digest[0] % HELD_OUT_ONE_IN == 0 else train
        part += document
    if not train or not held_out:
        raise ValueError(f"{count} documents do not fill a training and a held-out part; give more files")
    return Text(_tensor(torch, train), _tensor(torch, held_out), total.hexdigest(), count)


def _tensor(torch: Any, data: bytearray) -> Any:
    return torch.frombuffer(data, dtype=torch.uint8)
