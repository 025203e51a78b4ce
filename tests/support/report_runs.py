"""Runs of the command line that write reports, and what their pages must say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from runs import gpucnn, numbers

import gpucnn as package
from gpucnn import functional as F
from gpucnn.training import RunFolder, SavedModel

PICTURES = ["confusion.png", "curves.png", "filters.png", "mistakes.png"]


def train(data: Path, *options: object) -> Any:
    return gpucnn("train", "--data", data, "--device", "cpu", "--epochs", 2, "--out", "run", *options)


def page(path: str = "run/report.html") -> pages.Element:
    return pages.read(Path(path).read_text())


def without_times(html: str) -> str:
    """Return a report without the section that is measured anew whenever it is drawn."""
    rest, found = re.subn(r'<section aria-labelledby="time-per-layer">.*?</section>', "", html, flags=re.DOTALL)
    assert found == 1
    return rest


def answers(run: str, images: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, classes) of the run's network, one image at a time."""
    saved = SavedModel.load(RunFolder.open(Path(run)), "cpu")
    mean, std = np.array(saved.normalisation.mean), np.array(saved.normalisation.std)
    rows = []
    for image in images.reshape(-1, 1, 1, 28, 28):
        with package.no_grad():
            x = package.tensor(((image / 255 - mean) / std).astype(np.float32))
            rows.append(F.softmax(saved.net(x)).numpy()[0])
    return np.stack(rows)


def check_report(run: str, images: np.ndarray, labels: np.ndarray) -> None:
    """The report's counts, mistakes and numbers are those that the network, the data and the metrics give."""
    report = page(f"{run}/report.html")
    probabilities = answers(run, images)
    found = probabilities.argmax(1)
    counts = [
        [sum(1 for t, a in zip(labels, found, strict=True) if (t, a) == (i, j)) for j in range(10)] for i in range(10)
    ]
    rows = pages.table(report.section("Confusion matrix"))
    assert [[int(cell) for cell in row[1:11]] for row in rows[1:11]] == counts
    epochs = [line for line in numbers(Path(run)) if "train_loss" in line]
    tested = numbers(Path(run))[-1]
    assert sum(counts[i][i] for i in range(10)) / len(labels) == pytest.approx(tested["test_accuracy"], abs=1e-9)
    shown = report.section("Curves").all("tr")[1:]
    for row, values in zip(shown, epochs, strict=True):
        cells = [float(cell.attributes["value"]) for cell in row.all("data")]
        keys = [f"{split}_{what}" for split in ("train", "val") for what in ("loss", "accuracy")]
        assert values["test_loss"] is values["test_accuracy"] is None
        assert cells == [values[key] for key in keys]
    wrong = [i for i in range(len(labels)) if found[i] != labels[i]]
    worst = sorted(wrong, key=lambda i: probabilities[i, labels[i]])[:36]
    tiles = report.section("Worst mistakes").all("ul", **{"class": "tiles"})[0].inside
    assert len(tiles) == len(worst) > 10
    for tile, i in zip(tiles, worst, strict=True):
        assert (pages.pixels(tile.all("img")[0]) == images[i].reshape(28, 28)).all()
        said = tile.all("figcaption")[0].text
        assert said == f"{labels[i]} as {found[i]} ({100 * probabilities[i, found[i]]:.1f} %)"
        best = sorted(range(10), key=lambda k: -probabilities[i, k])[:3]
        assert [bar.text for bar in tile.all("li")] == [f"{k}{100 * probabilities[i, k]:.1f} %" for k in best]
