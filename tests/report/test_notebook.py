"""Curves in a notebook: one output, drawn anew for each epoch. IPython's place is taken by a notebook that notes."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from runs import drawn, trainer

from gpucnn import Classifier
from gpucnn.errors import GpucnnError
from gpucnn.inspect import LiveCurves
from gpucnn.training import EachEpoch

pytest.importorskip("matplotlib")


class Notebook:
    def __init__(self) -> None:
        self.outputs: list[list[bytes]] = []

    def display(self, picture: Any, display_id: bool) -> Any:
        assert display_id
        self.outputs.append([picture.data])
        return SimpleNamespace(update=lambda newer: self.outputs[-1].append(newer.data))


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    one = Notebook()
    module = SimpleNamespace(display=one.display, Image=lambda data: SimpleNamespace(data=data))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=module, version_info=(9, 0)))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return one


def check(notebook: Notebook, epochs: int) -> None:
    from PIL import Image

    (output,) = notebook.outputs
    assert len(output) == epochs
    assert len(set(output)) == epochs, "each is another image"
    with Image.open(io.BytesIO(output[-1])) as picture:
        assert picture.size == (1000, 400)


def test_with_a_trainer(notebook: Notebook, tmp_path: Any) -> None:
    trainer(tmp_path / "run", EachEpoch(LiveCurves())).train()
    check(notebook, 2)


def test_with_a_classifier(notebook: Notebook) -> None:
    Classifier(epochs=3, device="cpu", validation=20).fit(*drawn(80, 0), callback=LiveCurves())
    check(notebook, 3)


def test_within_an_epoch(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.report.notebook.EVERY", 0.0)
    Classifier(epochs=2, batch_size=2, device="cpu", validation=20).fit(*drawn(120, 0), callback=LiveCurves())
    check(notebook, 10)


def test_outside_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(GpucnnError, match="needs IPython: pip install ipython"):
        LiveCurves()
