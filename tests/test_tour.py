"""The notebook of docs/ runs from top to bottom, offline, and its values show themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOUR = ROOT / "docs" / "tour.ipynb"


def outputs_of(notebook: Any, source: str) -> list[Any]:
    """The outputs of the one cell that ends with a source."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.endswith(source))
    return list(cell.outputs)


def kinds_of(notebook: Any, source: str) -> set[str]:
    return {kind for output in outputs_of(notebook, source) for kind in output.get("data", {})}


def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel")
    client = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    folders = {
        "TMPDIR": "temporary",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "jupyter",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
    }
    for name, folder in folders.items():
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # this interpreter's kernel, whatever else the user has
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))

    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]  # it is committed without
    client.NotebookClient(
        notebook, timeout=600, startup_timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    assert "image/png" in kinds_of(notebook, "\nvideo")
    assert "image/png" in kinds_of(notebook, "\nstreams")
    assert "text/html" in kinds_of(notebook, "\nstudents")
    (bars,) = outputs_of(notebook, "top=5)")
    assert bars["data"]["text/html"].count("<tr>") == 5
    printed = "".join(output.get("text", "") for output in outputs_of(notebook, '"## Cost")])'))
    assert "library_name: videokd" in printed
    assert "| fused | " in printed
    assert not list((tmp_path / "temporary").glob("videokd-tour-*"))  # it removes what it made
