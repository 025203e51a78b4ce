"""The pictures as files: what the SVG says that is drawn, and that PNG files come out."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import numpy as np
import pages
import pytest

from gpucnn.errors import GpucnnError
from gpucnn.inspect import Mistake, Outcome, Run, look, look_plot, plots
from gpucnn.models import lenet
from gpucnn.report import pictures

pytest.importorskip("resvg_py", reason="no resvg_py: pip install 'gpucnn[png]'")
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
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[pages.Element]:
    """Return the SVG of the pictures that are drawn."""
    kept: list[pages.Element] = []
    draw = pictures.png_of

    def keep(svg: str) -> bytes:
        kept.append(pages.read(svg))
        return draw(svg)

    monkeypatch.setattr(pictures, "png_of", keep)
    return kept


def drawn(run: Run) -> dict[str, Any]:
    files = {}
    for name, content in plots(run):
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG"
            files[name] = np.asarray(picture.convert("RGB"))
    return files


def words(drawing: pages.Element) -> list[str]:
    return [text.text for text in drawing.all("text")]


def test_all_of_a_run(drawings: list[pages.Element]) -> None:
    filters = RNG.standard_normal((6, 1, 5, 5))
    given = outcome(list("abc"), 8)
    files = drawn(Run("t", "s", metrics=METRICS, filters_before=filters, filters_after=-filters, outcome=given))
    assert list(files) == ["curves.png", "filters.png", "confusion.png", "mistakes.png"]
    assert all(len(np.unique(pixels)) > 2 for pixels in files.values())
    curves, stacks, confusion, mistakes = drawings
    assert {"Loss", "Accuracy", "training", "test"} <= set(words(curves))
    assert "epoch 2\ntraining: 0.5\ntest: 1" in [place.text for place in curves.all("rect")]
    assert words(stacks) == ["before training", "after training"]
    counts = given.confusion
    numbers = [text for text in words(confusion) if text.isdigit()]
    assert numbers == [str(counts[place]) for place in np.ndindex(3, 3) if counts[place]]
    assert words(mistakes)[:4] == ["a as b", "75.0 %", "b as c", "75.0 %"]
    assert len(mistakes.all("image")) == 8


def test_the_colours_are_those_of_the_light_page() -> None:
    pixels = drawn(Run("t", "s", metrics=METRICS))["curves.png"].reshape(-1, 3)
    for colour in ((0x2A, 0x6F, 0xB6), (0x2E, 0x7D, 0x4F)):  # --train and --test of style.css
        assert (pixels == colour).all(1).sum() > 100
    assert (pixels[0] == 255).all(), "white paper"
    assert not any(part in pictures.chart_style() for part in ("var(", "@media", "hover"))


def test_images_are_where_they_belong_pixel_for_pixel() -> None:
    image = RNG.integers(0, 256, (1, 11, 11), np.uint8)
    given = Outcome("d", ["a", "b"], np.array([[3, 1], [0, 3]]), [Mistake(image, 0, 1, 0.75)])
    pixels = drawn(Run("t", "s", outcome=given))["mistakes.png"]
    tile = pixels[2 * 52 : 2 * 162, 2 * 16 : 2 * 126]  # 110 units from (16, 52), two pixels each: 20 for each of 11
    np.testing.assert_allclose(tile[10::20, 10::20, 0], image[0], atol=2)


def test_what_there_is_not() -> None:
    assert list(drawn(Run("t", "s"))) == []
    assert list(drawn(Run("t", "s", filters_after=np.zeros((1, 3, 2, 2))))) == ["filters.png"]
    assert list(drawn(Run("t", "s", outcome=outcome(["a"], 0)))) == ["confusion.png", "mistakes.png"]


@pytest.mark.parametrize(
    "names", [["$\\frac{$", "\u6570\u5b57", "x" * 300, "a\nb", "<&\x00\ud800"], [f"n{i}" for i in range(60)]]
)
def test_names_that_are_hard_to_draw(names: list[str]) -> None:
    assert len(drawn(Run("t", "s", outcome=outcome(names, 40, 3)))) == 2


def test_a_look_as_a_picture(drawings: list[pages.Element]) -> None:
    found = look(lenet(), RNG.integers(0, 256, (1, 28, 28), np.uint8), [f"${i}" for i in range(10)])
    with Image.open(io.BytesIO(look_plot(found, "$title_"))) as picture:
        assert picture.size[0] > 500
    told = words(drawings[0])
    label = f"${found.target}"
    assert told[:3] == ["the image", f"Grad-CAM for {label}", f"Occlusion for {label}"]
    assert {"maps of conv1", "maps of conv2", "$title_"} <= set(told)
    lengths = [float(bar.attributes["width"]) for bar in drawings[0].all("rect", **{"class": "column"})]
    np.testing.assert_allclose(lengths, sorted(300 * found.probabilities, reverse=True), atol=0.06)


def test_nothing_of_matplotlib_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert drawn(Run("t", "s", metrics=METRICS))


def test_without_what_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(GpucnnError, match=re.escape("pip install 'gpucnn[png]'")):
        list(plots(Run("t", "s")))
