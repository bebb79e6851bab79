"""A text dataset of the Hugging Face hub, pinned to a revision; needs the extra `hub` and a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.corpora.text import Text, split
from harness.interfaces import Corpus


@dataclass(frozen=True)
class Hub(Corpus):
    """One text column of one dataset."""

    dataset: str = ""
    revision: str = ""
    subset: str | None = None
    part: str = "train"
    column: str = "text"
    maximum_bytes: int = 6_000_000

    def check(self) -> None:
        """ValueError when the dataset is not named or not pinned, or the library is absent."""
        if not self.dataset:
            raise ValueError("corpus 'hub' needs a dataset; add corpus.dataset=owner/name")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                "corpus.revision must be a full commit hash (40 hexadecimal digits), so that it never moves"
            )
        try:
            import datasets  # noqa: F401
        except ImportError as error:
            raise ValueError("corpus 'hub' needs the datasets library; install efficiency-harness[hub]") from error

    def load(self) -> Text:
        """Stream documents until `maximum_bytes`."""
        self.check()
        return split(self._documents())

    def _documents(self) -> Iterator[bytes]:
        from datasets import load_dataset

        rows = load_dataset(self.dataset, self.subset, split=self.part, revision=self.revision, streaming=True)
        total = 0
        for row in rows:
            document = str(row[self.column]).encode()
            total += len(document)
            if total > self.maximum_bytes:
                return
            yield document
