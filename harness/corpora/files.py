"""The user's own text files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpora.text import Text, split
from harness.interfaces import Corpus


@dataclass(frozen=True)
class Files(Corpus):
    """Every file below `folder` whose name matches `pattern`."""

    folder: str = ""
    pattern: str = "*.txt"

    def identity(self) -> dict[str, Any]:
        """A hash of every file's content: an edited file is another measurement."""
        digest = hashlib.sha256()
        for path in self._paths():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return {"sha256": digest.hexdigest()}

    def check(self) -> None:
        """ValueError when the folder or the files are not there."""
        if not self.folder:
            raise ValueError("corpus 'text' needs a folder; add corpus.folder=/path/to/your/text")
        if not Path(self.folder).is_dir():
            raise ValueError(f"corpus.folder {self.folder!r} is not a folder; give one that holds your text files")
        if not self._paths():
            raise ValueError(f"no file in {self.folder!r} matches {self.pattern!r}; set corpus.pattern")

    def load(self) -> Text:
        """Read all files."""
        self.check()
        return split(path.read_bytes() for path in self._paths())

    def _paths(self) -> list[Path]:
        if not self.folder or not Path(self.folder).is_dir():
            return []
        return sorted(path for path in Path(self.folder).rglob(self.pattern) if path.is_file())
