"""docs/first_model.ipynb: it runs from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_model.ipynb"


def test_no_output_is_kept_in_the_notebook():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert not [cell.source for cell in cells if cell.outputs or cell.execution_count]


@pytest.mark.slow
def test_notebook_ends_with_figures_pictures_and_an_exported_file(coco_root, tmp_path, monkeypatch):
    """With a few images and epochs in place of what its cell of parameters says."""
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = f"data, epochs = {str(coco_root)!r}, 8"  # by then no two boxes have the same score
    notebook.cells.append(nbformat.v4.new_code_cell("print(mean_ap, len(result.scores), run)"))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]  # an exit code other than 0 is one too
    shown = [kind for output in outputs for kind in output.get("data", ()) if kind.startswith("image/")]
    assert len(shown) == 5
    mean_ap, objects, run = outputs[-1].text.split()
    assert 0 < float(mean_ap) <= 1
    assert int(objects) > 0
    assert (tmp_path / run / "checkpoints" / "best.ckpt").is_file()
    assert (tmp_path / "detection.onnx").is_file()
    assert not (tmp_path / "datasets").exists()  # nothing was drawn in place of the data that were given
