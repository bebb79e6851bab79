"""Trials first: once this process has used the GPU, each of them has a foreign process beside it and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

#: What the tests that start trials ask for, directly or through another fixture.
STARTS_TRIALS = {"new_sweep", "tmp_path"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [place for place, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    found = [items[place] for place in places]
    found.sort(key=lambda item: not STARTS_TRIALS & set(getattr(item, "fixturenames", ())))
    for place, item in zip(places, found, strict=True):
        items[place] = item
