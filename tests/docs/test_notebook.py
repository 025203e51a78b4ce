"""The notebook runs from top to bottom and draws what it says."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, environment

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
PICTURES = [0, 1, 1, 1, 2, 1, 2]
"""How many pictures each cell draws."""
CODE = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_it_is_stored_with_what_it_draws() -> None:
    """``scripts/run_notebook.py`` stores the outputs of one run from top to bottom."""
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    pictures = [sum("image/png" in output.get("data", {}) for output in cell["outputs"]) for cell in CODE]
    assert pictures == PICTURES
    stored = NOTEBOOK.read_text(encoding="utf-8")
    assert not any(output["output_type"] == "error" for cell in CODE for output in cell["outputs"])
    assert len(stored) < 300_000
    assert not any(place in stored for place in ("/tmp", "/home", "/root"))


@pytest.mark.slow
def test_it_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="no nbclient: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="no ipykernel: pip install nbclient ipykernel")
    pytest.importorskip("matplotlib", reason="no Matplotlib: pip install 'gpucnn[plots]'")
    nbformat = pytest.importorskip("nbformat")
    for name, value in environment(IPYTHONDIR=str(tmp_path), JUPYTER_PLATFORM_DIRS="1").items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter's own libraries
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    drawn: list[list[str]] = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in cell.outputs)
            drawn.append([o.output_type for o in cell.outputs if "image/png" in o.get("data", {})])
    assert [len(pictures) for pictures in drawn] == PICTURES


def test_its_cells_run_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="no Matplotlib: pip install 'gpucnn[plots]'")
    display = pytest.importorskip("IPython.display", reason="no IPython: pip install ipython")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    class Handle:
        def update(self, picture: Any) -> None:
            drawn.append("again")

    def shown(*_: Any, **__: Any) -> Handle:
        drawn.append("curves")
        return Handle()

    drawn: list[str] = []
    monkeypatch.setattr(display, "display", shown)
    monkeypatch.setattr(plt, "show", lambda: drawn.append(f"{len(plt.gcf().axes)} images"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        for cell in CODE:
            code = "".join(line for line in cell["source"] if not line.startswith("%"))
            exec(compile(code, cell["id"], "exec"), namespace)
    finally:
        plt.close("all")
    assert [one for one in drawn if one != "again"] == [
        "16 images", "curves", "6 images", "6 images", "16 images", "8 images", "8 images", "8 images"
    ]  # fmt: skip
    assert 3 <= drawn.count("again") <= 3 + 4 * 4, "after each epoch, and at most four times in it"
    assert namespace["accuracy"] > 0.8
    assert (namespace["answers"][namespace["worst"]] != namespace["test_labels"][namespace["worst"]]).all()
    assert "test accuracy" in capsys.readouterr().out
