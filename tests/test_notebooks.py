"""Notebooks run from top to bottom on real rows."""

from __future__ import annotations

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_real_rows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import harness

    for technique in ("none", "gqa"):
        harness.run_trial(
            "model=tiny_llama",
            f"technique={technique}",
            "workload=prefill",
            "workload.prompt_tokens=16",
            "workload.quality_windows=2",
            results=str(tmp_path),
        )
    monkeypatch.setitem(os.environ, "HARNESS_RESULTS", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "gqa" in shown
    assert "image/png" in shown


def test_notebooks_are_stored_without_outputs():
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert all(not cell.get("outputs") for cell in cells), f"{path.name}: clear its outputs"
