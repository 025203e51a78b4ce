"""Run docs/notebook.ipynb from top to bottom and keep what it prints and draws in it (extra notebook).

python scripts/run_notebook.py
jupyter lab docs/notebook.ipynb      # to open it (pip install jupyterlab)
"""

import tempfile
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def main() -> None:
    """Execute the notebook in an empty folder, and write it back without what differs from run to run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    for key in ("version",):
        notebook.metadata.get("language_info", {}).pop(key, None)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
