"""The results of a network on test images: classes, confusions, calibration, mistakes; as data and as parts of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn.formats import ABSENT, percent
from gpucnn.report.charts import calibration_chart, matrix_chart
from gpucnn.report.html import MOST_NARROW, exactly, folded, name, scrolling, table, text
from gpucnn.report.images import image_pixels
from gpucnn.report.tiles import class_bars, strip, tile

MOST_CLASSES = 20
"""Classes up to which the confusion matrix is a table of numbers; beyond, it is drawn."""

MOST_PAIRS, MOST_LISTED = 12, 500
"""Most pairs of classes that are listed as confused, with images and in the table beside a drawn matrix."""


@dataclass(frozen=True)
class Mistake:
    """An image (C, H, W), as in the data set, that was misclassified: its class, the prediction and its probability.

    top: the most probable classes with their probabilities, best first. file: of the image, if it has one. seen: what
    supported the prediction, (H, W) from 0 to 1 (Grad-CAM).

    >>> Mistake(np.zeros((1, 28, 28), np.uint8), label=4, answer=9, confidence=0.98).answer
    9
    """

    image: Any
    label: int
    answer: int
    confidence: float
    top: Sequence[tuple[int, float]] = ()
    file: str | None = None
    seen: Any = None


@dataclass(frozen=True)
class Outcome:
    """The evaluation on the test images of ``data``: counts (K, K), row = true class, column = prediction; mistakes.

    examples: some images (C, H, W) of pairs (true class, prediction). calibration: for equal steps of the confidence from 0
    to 1, the mean confidence, the accuracy and the number of images.

    >>> Outcome("pets", ["cat", "dog"], np.array([[5, 1], [0, 4]])).accuracy
    0.9
    """

    data: str
    class_names: Sequence[str]
    confusion: Any
    mistakes: Sequence[Mistake] = ()
    examples: Mapping[tuple[int, int], Sequence[Any]] = field(default_factory=dict)
    calibration: Sequence[tuple[float, float, int]] = ()

    @property
    def count(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The accuracy, 0 to 1."""
        return float(np.trace(self.confusion)) / self.count

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, 0 to 1: the mean distance of confidence and accuracy (Guo et al. 2017)."""
        return sum(count * abs(confidence - right) for confidence, right, count in self.calibration) / self.count


def calibrated(confidences: Any, right: Any, bins: int = 10) -> list[tuple[float, float, int]]:
    """Return the mean confidence, accuracy and number of images for equal steps of the confidence (N,) from 0 to 1.

    >>> calibrated(np.array([0.9, 0.95]), np.array([True, False]), 2)
    [(0.0, 0.0, 0), (0.925, 0.5, 2)]
    """
    places = np.minimum((np.asarray(confidences) * bins).astype(int), bins - 1)
    found = []
    for i in range(bins):
        inside = places == i
        count = int(inside.sum())
        means = (float(np.mean(values[inside])) if count else 0.0 for values in (confidences, right))
        found.append((*means, count))
    return found  # type: ignore[return-value]


def confusions(outcome: Outcome, most: int = MOST_PAIRS) -> list[tuple[int, int]]:
    """Return the pairs (true class, prediction) confused most often, first those with the most images.

    >>> confusions(Outcome("pets", ["cat", "dog"], np.array([[5, 1], [0, 4]])))
    [(0, 1)]
    """
    wrong = outcome.confusion - np.diag(np.diag(outcome.confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    return [(int(at) // len(wrong), int(at) % len(wrong)) for at in order if wrong.flat[at]]


def classes_part(outcome: Outcome) -> str:
    """Return the table of the classes with precision, recall and F1, the class with the lowest F1 first."""
    counts = np.asarray(outcome.confusion)
    right, of_class, answered = np.diag(counts), counts.sum(1), counts.sum(0)
    shares = [
        (_share(right[i], answered[i]), _share(right[i], of_class[i]), _share(2 * right[i], of_class[i] + answered[i]))
        for i in range(len(counts))
    ]
    order = sorted(range(len(counts)), key=lambda i: (shares[i][2] is not None, shares[i][2] or 0.0, i))
    rows = ([name(outcome.class_names[i]), f"{of_class[i]:,}", *map(percent, shares[i])] for i in order)
    head = ["class", "images", "precision", "recall", "F1"]
    caption = "Precision: correct share of predictions; recall: of the class; F1: harmonic mean; lowest F1 first"
    numbers = table(caption, head, rows)
    calibration = _calibration(outcome) if outcome.calibration else ""
    return f'<div class="row"><div>{numbers}</div>{calibration}</div>'


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _calibration(outcome: Outcome) -> str:
    error = outcome.calibration_error
    mean = sum(confidence * count for confidence, _, count in outcome.calibration) / outcome.count
    kind = "as sure as it should be"
    if error > 0.02:
        kind = "too sure of its answers" if mean > outcome.accuracy else "less sure than it could be"
    about = (
        f"<p>Expected calibration error {exactly(error, percent)}: the network is {kind}. On the dashed line, "
        "answers given with 90 % confidence would be right nine times in ten.</p>"
    )
    rows = (
        [f"{i / len(outcome.calibration):.1f}", percent(right if count else None), f"{count:,}"]
        for i, (_, right, count) in enumerate(outcome.calibration)
    )
    numbers = table("By confidence, in equal steps", ["confidence from", "accuracy", "images"], rows)
    return f"<div>{calibration_chart(outcome.calibration, error)}{about}{folded('Numbers', numbers)}</div>"


def confusion_part(outcome: Outcome) -> str:
    """Return the confusion matrix, and the pairs of classes confused most often with some of their images."""
    about = (
        f"{outcome.count:,} test images of {name(outcome.data)}, {np.trace(outcome.confusion):,} classified correctly: "
        f"{exactly(outcome.accuracy, percent)}. A row is the true class, a column the answer."
    )
    draw = _matrix_table(outcome) if len(outcome.class_names) <= MOST_CLASSES else _matrix_drawing(outcome)
    return f"<p>{about}</p>{draw}{_pairs(outcome)}"


def _matrix_table(outcome: Outcome) -> str:
    counts = np.asarray(outcome.confusion)
    wrong = counts - np.diag(np.diag(counts))
    most = max(int(wrong.max()), 1)
    names = [name(label) for label in outcome.class_names]
    rows = []
    for i, label in enumerate(names):
        cells = []
        for j, count in enumerate(counts[i]):
            kind = "right" if i == j else "wrong"
            share = count / max(int(counts[i].sum()), 1) if i == j else count / most
            words = text(
                f"{outcome.class_names[i]} answered as {outcome.class_names[j]}: {count:,} "
                f"({percent(_share(count, counts[i].sum()), 1)})"
            )
            style = f' style="--share: {share:.3f}"' if count else ""
            cells.append(f'<td class="{kind if count else "none"}"{style} title="{words}">{count}</td>')
        rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{label}</th>' for label in names)
    return scrolling(
        "Confusion matrix",
        '<table class="confusion"><caption><span>Images of each class (rows) by the answer (columns)</span></caption>'
        f'<thead><tr><th scope="col">true \\ answer</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        wide=len(names) > MOST_NARROW,
    )


def _matrix_drawing(outcome: Outcome) -> str:
    caption = (
        "Blue: correct, red: wrong; the stronger, the larger the share of the row. Point at a cell for its numbers."
    )
    drawn = scrolling("Confusion matrix", matrix_chart(outcome.confusion, outcome.class_names), wide=True)
    pairs = confusions(outcome, MOST_LISTED)
    names = [name(label) for label in outcome.class_names]
    rows = ([names[i], names[j], f"{outcome.confusion[i, j]:,}"] for i, j in pairs)
    numbers = table("The most frequent first", ["true class", "answer", "times"], rows, "words")
    return (
        f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>{folded('Mistakes by pairs of classes', numbers)}"
    )


def _pairs(outcome: Outcome) -> str:
    pairs = confusions(outcome)
    if not pairs:
        return ""
    of_class = outcome.confusion.sum(1)
    rows = (
        [
            name(outcome.class_names[i]),
            name(outcome.class_names[j]),
            f"{outcome.confusion[i, j]:,}",
            percent(_share(outcome.confusion[i, j], of_class[i])),
            _strip(outcome, i, j),
        ]
        for i, j in pairs
    )
    head = ["true class", "answer", "times", "share of the class", "for example"]
    return "<h3>Confused most often</h3>" + table(
        "Pairs of classes, the most frequent mistake first", head, rows, "words pairs"
    )


def _strip(outcome: Outcome, i: int, j: int) -> str:
    images = outcome.examples.get((i, j), ())
    if not images:
        return ABSENT
    return strip(images, f"Image of class {outcome.class_names[i]}, answered {outcome.class_names[j]}")


def mistakes_part(outcome: Outcome) -> str:
    """Return the worst mistakes: image, what the network looked at, and its most probable classes."""
    if not outcome.mistakes:
        return "<p>None: every test image is classified correctly.</p>"
    tiles = "".join(_mistake(outcome, mistake) for mistake in outcome.mistakes)
    count = outcome.count - int(np.trace(outcome.confusion))
    about = f"{len(outcome.mistakes)} of {count:,} mistakes, highest loss first: true class, answer, its probability."
    return f'<p>{about}</p><ul class="tiles">{tiles}</ul>'


def _mistake(outcome: Outcome, mistake: Mistake) -> str:
    label, answer = outcome.class_names[mistake.label], outcome.class_names[mistake.answer]
    shown = tile(image_pixels(mistake.image), f"Test image of class {label}, answered {answer}")
    caption = f"{name(label)} as <b>{name(answer)}</b> ({percent(mistake.confidence, 1)})"
    file = "" if mistake.file is None else f"<br>{name(mistake.file)}"
    figure = f"<figure>{shown}<figcaption>{caption}{file}</figcaption></figure>"
    bars = class_bars(outcome.class_names, mistake.top, mistake.label)
    seen = ""
    if mistake.seen is not None:
        heat = tile(mistake.seen, f"What spoke for {answer} in this image (Grad-CAM)")
        seen = folded("What it looked at", heat)
    return f"<li>{figure}{bars}{seen}</li>"
