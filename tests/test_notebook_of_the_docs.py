"""The notebook of the documentation runs, and shows what it says."""

from pathlib import Path

import numpy as np
import pytest

from seg_core.nifti import read_labels, write_volume

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipyniivue")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def test_the_notebook_runs(legs, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    write_volume(tmp_path / "scan.nii.gz", legs[0])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert notebook.cells[1].source == 'SCAN, MODEL = "scan.nii.gz", "default"'
    notebook.cells[1].source = f'SCAN, MODEL = "scan.nii.gz", {str(tiny_model)!r}'
    context = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=None, startup_timeout=600, resources=context).execute()
    shown = [set(cell.outputs[-1].get("data", ())) for cell in notebook.cells if cell.get("outputs")]
    assert "image/png" in shown[0]
    assert "text/html" in shown[1]
    assert "image/png" in shown[2]
    assert "application/vnd.jupyter.widget-view+json" in shown[4]
    np.testing.assert_array_equal(read_labels(tmp_path / "bones.nii.gz").array, legs[1].array)
