"""examples/explore.ipynb runs from its first cell to its last on a small lake, in a kernel as Jupyter starts it."""

import nbformat
import pytest

from mmret.lake import Lake
from mmret.warehouse import open_catalogue
from tests.conftest import CHECKOUT

NOTEBOOK = CHECKOUT / "examples" / "explore.ipynb"


def test_the_notebook_is_kept_without_what_it_showed():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells and not [cell for cell in cells if cell.outputs or cell.execution_count]


def test_every_cell_runs_and_shows_something(small_lake, tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient", reason="the notebook is run where nbclient and ipykernel are installed")
    open_catalogue(Lake(small_lake[0])).close()
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("LAKE", str(small_lake[0]))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(
        notebook, timeout=200, startup_timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [
        {kind for output in cell.outputs for kind in output.get("data", {})} for cell in notebook.cells if cell.cell_type == "code"
    ]
    assert all(shown) and sum("image/png" in kinds for kinds in shown) == 2 and sum("text/html" in kinds for kinds in shown) == 2
