"""Byte-level text, split into a part to train on and a part held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

#: One document in this many is held out.
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Text:
    """The two parts as bytes, which no count of tensor memory mistakes for the model's, and what identifies them."""

    train: bytes
    held_out: bytes
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
    train, held_out, total, count = bytearray(), bytearray(), hashlib.sha256(), 0
    for document in documents:
        digest = hashlib.sha256(document).digest()
        total.update(digest)
        count += 1
        part = held_out if digest[0] % HELD_OUT_ONE_IN == 0 else train
        part += document
    if not train or not held_out:
        raise ValueError(f"{count} documents do not fill a training and a held-out part; give more files")
    return Text(bytes(train), bytes(held_out), total.hexdigest(), count)
