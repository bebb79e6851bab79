"""The running interpreter's own standard library: real source code on every machine, without a network."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpora.text import Text, split
from harness.interfaces import Corpus


@dataclass(frozen=True)
class PythonSource(Corpus):
    """Modules of the standard library, its tests left out, in an order fixed by a hash of their path."""

    maximum_bytes: int = 6_000_000

    def identity(self) -> dict[str, Any]:
        """The interpreter's version decides the text."""
        return {"python": sysconfig.get_python_version()}

    def load(self) -> Text:
        """Read files until `maximum_bytes`."""
        return split(self._documents())

    def _documents(self) -> Iterator[bytes]:
        root = Path(sysconfig.get_path("stdlib"))
        left_out = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib"}
        paths = [path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts)]
        total = 0
        for path in sorted(paths, key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest()):
            document = path.read_bytes()
            total += len(document)
            if total > self.maximum_bytes:
                return
            yield document
