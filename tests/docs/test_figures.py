"""The gallery and the tutorial show what was measured and computed; their scripts run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from runs import ROOT, environment

DOCS = ROOT / "docs"
RESULTS = json.loads((DOCS / "gallery" / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/gallery.py, which imports its neighbours."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import gallery

    return gallery


def test_the_page_says_what_was_measured(gallery: ModuleType) -> None:
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert page == gallery.page_of(RESULTS), "run scripts/gallery.py"
    for numbers in RESULTS.values():
        counts = np.array(numbers["confusion"])
        assert counts.sum() == numbers["test_images"]
        assert np.trace(counts) / counts.sum() == numbers["test_accuracy"]
        assert f"**{100 * numbers['test_accuracy']:.1f} %** of {numbers['test_images']:,} test images" in page


def said(figure: Path) -> list[str]:
    """Return the text alternatives and the words of a figure: how it looks may change without a new training."""
    elements = list(ElementTree.parse(figure).iter())
    words = [e.text or "" for e in elements if e.tag.endswith("text")]
    return words + [e.attrib["aria-label"] for e in elements if "aria-label" in e.attrib]


def test_the_figures_are_those_of_the_results(gallery: ModuleType, tmp_path: Path) -> None:
    for name, numbers in RESULTS.items():
        gallery.figures.write_confusion(tmp_path / "confusion.svg", np.array(numbers["confusion"]), numbers["classes"])
        gallery.figures.write_accuracy(tmp_path / "accuracy.svg", numbers["epochs"])
        for what in ("confusion", "accuracy"):
            drawn, kept = tmp_path / f"{what}.svg", DOCS / "gallery" / f"{name}-{what}.svg"
            assert said(drawn) == said(kept), f"{kept.name}: run scripts/gallery.py"


def test_the_figures_are_light_and_load_nothing() -> None:
    files = sorted((DOCS / "gallery").glob("*.svg"))
    pages = (DOCS / "gallery.md").read_text() + (DOCS / "index.md").read_text()
    assert [file.name for file in files] == sorted(re.findall(r"gallery/([\w-]+\.svg)", pages))
    for file in files:
        assert file.stat().st_size < 100_000
        links = [
            value for e in ElementTree.parse(file).iter() for key, value in e.attrib.items() if key.endswith("href")
        ]
        assert all(link.startswith("data:image/png;base64,") for link in links)
    assert sum(file.stat().st_size for file in files) < 800_000


@pytest.mark.parametrize("name", ["clothes", "flowers", "surfaces", "hands"])
def test_a_seed_gives_the_same_images_again(gallery: ModuleType, name: str) -> None:
    draw = getattr(gallery.gallery_data, name)
    first, again, other = draw(36, 3), draw(36, 3), draw(36, 4)
    assert first.images.dtype == np.uint8
    assert (first.images == again.images).all()
    assert (first.images != other.images).any((1, 2)).all()
    assert set(first.labels.tolist()) == set(range(len(first.names)))
    of_class = [first.images[first.labels == k].astype(float).mean(0) for k in range(len(first.names))]
    assert min(abs(a - b).mean() for i, a in enumerate(of_class) for b in of_class[:i]) > 2


def test_defects_are_where_an_image_is_not_plain(gallery: ModuleType) -> None:
    drawn = gallery.gallery_data.surfaces(90, 0)
    there = drawn.defects.any((1, 2))
    assert (there == (drawn.labels > 0)).all()
    assert drawn.defects[there].sum((1, 2)).min() >= 1
    assert drawn.defects[there].mean() < 0.1
    hole = drawn.labels == list(drawn.names).index("hole")
    dark = [
        image[defect].min() < image[~defect].min() for image, defect in zip(*(a[hole] for a in drawn[::3]), strict=True)
    ]
    assert np.mean(dark) > 0.8


def test_the_script_trains_and_draws(gallery: ModuleType, tmp_path: Path) -> None:
    command: list[Any] = [sys.executable, ROOT / "scripts" / "gallery.py", "--quick", "--out", tmp_path / "docs"]
    result = subprocess.run(
        command, env=environment(PYTHONSAFEPATH=""), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "docs" / "gallery" / "results.json").read_text())
    page = (tmp_path / "docs" / "gallery.md").read_text()
    assert page == gallery.page_of(results)
    for link in re.findall(r"\((gallery/[^)]+)\)", page):
        assert (tmp_path / "docs" / link).exists()
    for exhibit in gallery.EXHIBITS:
        numbers = results[exhibit.name]
        said = re.search(rf"Run folder: runs/{exhibit.name}\nReport", result.stdout)
        assert said
        [accuracy] = re.findall(r"Test accuracy (\S+),", result.stdout[: said.start()])[-1:]
        assert f"{numbers['test_accuracy']:.4f}" == accuracy
        assert len(numbers["epochs"]) == 1
    assert results["surfaces"]["pointed"][1] <= 18
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs"]


def test_the_tutorial_shows_what_its_code_computes(gallery: ModuleType, tmp_path: Path) -> None:
    import tutorial_figures

    found = tutorial_figures.values_of(DOCS / "tutorial.md")
    tutorial_figures.draw(found, tmp_path)
    links = re.findall(r"\(tutorial/([\w-]+\.svg)\)", (DOCS / "tutorial.md").read_text())
    assert sorted(links) == sorted(path.name for path in tmp_path.iterdir())
    assert sorted(links) == sorted(path.name for path in (DOCS / "tutorial").iterdir())
    for name in ("window", "places", "im2col"):
        drawn = said(tmp_path / f"{name}.svg")
        assert drawn == said(DOCS / "tutorial" / f"{name}.svg"), "run scripts/tutorial_figures.py"
    assert "0·0 + 1·1 + 3·2 + 4·3 = 19" in said(DOCS / "tutorial" / "window.svg")
    assert (sum(found["losses"][:20]) > 2 * sum(found["losses"][-20:])) is True
