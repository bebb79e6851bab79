"""Descriptions of the installed distributions: prose that every environment carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from harness.corpora.text import Text, split
from harness.interfaces import Corpus


@dataclass(frozen=True)
class PackageDocs(Corpus):
    """Long descriptions (mostly README files), ordered by name of the distribution."""

    maximum_bytes: int = 6_000_000

    def load(self) -> Text:
        """Read descriptions until `maximum_bytes`."""
        return split(self._documents())

    def _documents(self) -> Iterator[bytes]:
        found = {dist.name.lower(): dist for dist in metadata.distributions() if dist.name}
        total = 0
        for name in sorted(found):
            document = _description(found[name]).encode()
            total += len(document)
            if total > self.maximum_bytes:
                return
            if document:
                yield document


def _description(distribution: metadata.Distribution) -> str:
    """The body of the core metadata, which holds the description since version 2.1 of its specification."""
    message: Any = distribution.metadata
    return str(message.get_payload() or "")
