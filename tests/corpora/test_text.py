"""Text is split by content, so that nothing that is trained on is held out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.corpora.files import Files
from harness.corpora.hub import Hub
from harness.corpora.python_source import PythonSource
from harness.corpora.text import split

#: Few distinct documents, so that equal ones are common, and enough for both parts.
DOCUMENTS = st.lists(st.integers(0, 200).map("document {}".format).map(str.encode), min_size=30, max_size=60)


@given(DOCUMENTS)
def test_every_document_stands_whole_in_one_part(documents: list[bytes]):
    try:
        text = split(documents)
    except ValueError:
        assume(False)
    rebuilt = [b"", b""]
    for document in documents:
        rebuilt[split_of(document)] += document
    assert rebuilt == [bytes(text.train), bytes(text.held_out)]
    assert text.size_bytes == sum(map(len, documents))


def split_of(document: bytes) -> int:
    """1 where a document is held out, whatever stands beside it."""
    import hashlib

    return int(hashlib.sha256(document).digest()[0] % 10 == 0)


@given(DOCUMENTS, st.randoms())
def test_the_hash_names_the_documents_and_their_order(documents: list[bytes], chance: object):
    assume(len({split_of(item) for item in documents}) == 2)
    shuffled = list(documents)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert (split(documents).sha256 == split(shuffled).sha256) == (documents == shuffled)
    assert split(documents).sha256 != split([*documents, b"one more"]).sha256


@pytest.mark.parametrize("documents", [[], [b"one"], [b"same"] * 50])
def test_too_few_documents_are_refused(documents: list[bytes]):
    with pytest.raises(ValueError, match="give more files"):
        split(documents)


def test_the_standard_library_is_the_same_text_every_time():
    first, second = (PythonSource(maximum_bytes=300_000).load() for _ in range(2))
    assert first.sha256 == second.sha256
    assert 0 < first.size_bytes <= 300_000
    assert len(first.held_out) > 0


def test_an_edited_file_is_another_measurement(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one")
    corpus = Files(str(tmp_path))
    before = corpus.identity()
    assert corpus.identity() == before
    (tmp_path / "a.txt").write_text("two")
    assert corpus.identity() != before


@pytest.mark.parametrize(
    ("corpus", "named"),
    [
        (Files(), "corpus.folder"),
        (Files("/no/such/folder"), "/no/such/folder"),
        (Hub(), "corpus.dataset"),
        (Hub(dataset="a/b", revision="main"), "commit hash"),
    ],
)
def test_text_that_is_not_there_is_explained(corpus: Files | Hub, named: str):
    with pytest.raises(ValueError, match=named):
        corpus.check()


def test_a_folder_without_a_matching_file_is_explained(tmp_path: Path):
    with pytest.raises(ValueError, match="pattern"):
        Files(str(tmp_path)).check()
