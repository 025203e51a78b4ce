"""The image files: what Matplotlib was told to draw, and that files come out."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest

from gpucnn.errors import GpucnnError
from gpucnn.inspect import Mistake, Outcome, Run, look, look_plot, plots
from gpucnn.models import lenet

figure = pytest.importorskip("matplotlib.figure")
Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
METRICS = [
    {"epoch": e, "step": e * 10, "train_loss": 1 / e, "train_accuracy": 0.5, "val_loss": None, "val_accuracy": None,
     "test_loss": 2 / e, "test_accuracy": 0.25 * e, "seconds": 1.0, "images_per_second": 1.0}
    for e in (1, 2, 3)
]  # fmt: skip


def outcome(names: list[str], mistakes: int, C: int = 1) -> Outcome:
    K = len(names)
    wrong = [Mistake(RNG.integers(0, 256, (C, 8, 8), np.uint8), i % K, (i + 1) % K, 0.75) for i in range(mistakes)]
    return Outcome("d", names, np.arange(K * K).reshape(K, K) + np.eye(K, dtype=int), wrong)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the figures that are saved."""
    saved: list[Any] = []
    save = figure.Figure.savefig

    def keep(self: Any, *arguments: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    return saved


def drawn(run: Run) -> dict[str, Any]:
    files = {}
    for name, content in plots(run):
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG"
            files[name] = np.asarray(picture.convert("RGB"))
    return files


def test_all_of_a_run(figures: list[Any]) -> None:
    filters = RNG.standard_normal((6, 1, 5, 5))
    files = drawn(
        Run("t", "s", metrics=METRICS, filters_before=filters, filters_after=-filters, outcome=outcome(list("abc"), 8))
    )
    assert list(files) == ["curves.png", "filters.png", "confusion.png", "mistakes.png"]
    assert all(len(np.unique(pixels)) > 2 for pixels in files.values())
    loss, accuracy = figures[0].axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in loss.lines}
    assert lines == {"training": ([1, 2, 3], [1, 1 / 2, 1 / 3]), "test": ([1, 2, 3], [2, 1, 2 / 3])}
    assert list(accuracy.lines[1].get_ydata()) == [0.25, 0.5, 0.75]
    assert [axes.get_title() for axes in figures[1].axes] == ["before training", "after training"]
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in figures[2].axes[0].texts}
    counts = np.arange(9).reshape(3, 3) + np.eye(3, dtype=int)
    assert texts == {place: str(counts[place]) for place in np.ndindex(3, 3) if counts[place]}
    assert [text.get_text() for text in figures[3].axes[0].texts][:2] == ["a as b\n75.0%", "b as c\n75.0%"]
    assert len(figures[3].axes[0].images) == 8


def test_what_there_is_not() -> None:
    assert list(drawn(Run("t", "s"))) == []
    assert list(drawn(Run("t", "s", filters_after=np.zeros((1, 3, 2, 2))))) == ["filters.png"]
    assert list(drawn(Run("t", "s", outcome=outcome(["a"], 0)))) == ["confusion.png", "mistakes.png"]


@pytest.mark.parametrize(
    "names", [["$\\frac{$", "\u6570\u5b57", "x" * 300, "a\nb", "_^"], [f"n{i}" for i in range(60)]]
)
def test_names_that_are_hard_to_draw(names: list[str]) -> None:
    assert len(drawn(Run("t", "s", outcome=outcome(names, 40, 3)))) == 2


def test_a_look_as_a_picture(figures: list[Any]) -> None:
    found = look(lenet(), RNG.integers(0, 256, (1, 28, 28), np.uint8), [f"${i}" for i in range(10)])
    with Image.open(io.BytesIO(look_plot(found, "$title_"))) as picture:
        assert picture.size[0] > 500
    titles = [axes.get_title() for axes in figures[0].axes]
    label = f"${found.target}"
    assert titles[:3] == ["the image", f"Grad-CAM for {label}", f"Occlusion for {label}"]
    assert {"maps of 0", "maps of 3"} <= set(titles)
    heights = [bar.get_height() for bar in figures[0].axes[-1].patches]
    assert heights == sorted(found.probabilities.astype(float).tolist(), reverse=True)


def test_matplotlibs_windows_are_left_alone() -> None:
    before = "matplotlib.pyplot" in sys.modules
    drawn(Run("t", "s", metrics=METRICS))
    assert ("matplotlib.pyplot" in sys.modules) is before


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(GpucnnError, match=r"pip install 'gpucnn\[plots\]'"):
        list(plots(Run("t", "s")))
