"""The running interpreter's own standard library: real source code on every machine, without a network."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpora.text import Text, split
from harness.interfaces import Corpus

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib"}


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
        root, total = sysconfig.get_path("stdlib"), 0
        paths = sorted(_modules(root), key=lambda path: hashlib.sha256(path.encode()).digest())
        for path in paths:
            document = Path(root, path).read_bytes()
            total += len(document)
            if total > self.maximum_bytes:
                return
            yield document


def _modules(root: str) -> Iterator[str]:
    """Paths below `root`, without walking into what is left out: installed packages are many times the library."""
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in LEFT_OUT]
        yield from (os.path.relpath(os.path.join(folder, name), root) for name in files if name.endswith(".py"))
