"""The report of a run: one page with its settings, curves, confusion matrix, mistakes, filters and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn.analysis.summary import Summary
from gpucnn.report.curves import SPLITS, chart, epochs_of, series_of
from gpucnn.report.html import facts, name, page, picture, scrolling, section, table, text
from gpucnn.report.images import (
    WARM,
    coloured,
    data_uri,
    enlarged,
    filter_pixels,
    image_pixels,
    sheet,
    shown_filters,
)

MOST_FILTERS = 64
"""Most filters that are drawn; the others are counted."""

MOST_CLASSES = 20
"""Classes up to which the confusion matrix is a table of numbers; beyond, it is an image, and the worst are named."""

MOST_LAYERS = 30
"""Most layers whose table is open at first."""

LARGEST_TILE = 96
"""Longest side of a mistake's image in pixels; larger images are scaled down."""


@dataclass(frozen=True)
class Mistake:
    """An image (C, H, W), as in the data set, that was misclassified: its class, the prediction and its probability.

    >>> Mistake(np.zeros((1, 28, 28), np.uint8), label=4, answer=9, confidence=0.98).answer
    9
    """

    image: Any
    label: int
    answer: int
    confidence: float


@dataclass(frozen=True)
class Outcome:
    """The evaluation on the test images of ``data``: counts (K, K), row = true class, column = prediction; mistakes.

    >>> Outcome("pets", ["cat", "dog"], np.array([[5, 1], [0, 4]])).accuracy
    0.9
    """

    data: str
    class_names: Sequence[str]
    confusion: Any
    mistakes: Sequence[Mistake] = ()

    @property
    def count(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The accuracy, 0 to 1."""
        return float(np.trace(self.confusion)) / self.count


@dataclass(frozen=True)
class Run:
    """The content of a run's report; what is None or empty is left out.

    state: in a few words, how far the run is. settings and environment: names and values. metrics: the objects of
    ``metrics.jsonl``. filters_before, filters_after: of the first convolution (F, C, KH, KW), as initialised and now.

    >>> Run("lenet on digits", "1 epoch done").outcome is None
    True
    """

    title: str
    state: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    summary: Summary | None = None
    filters_before: Any = None
    filters_after: Any = None
    outcome: Outcome | None = None


def report(run: Run, refresh: int | None = None) -> str:
    """Return the report as HTML: one file that needs no other. refresh: seconds until the page reloads itself.

    >>> html = report(Run("lenet on <digits>", "finished"))
    >>> "<h1>lenet on &lt;digits&gt;</h1>" in html, "<script" in html
    (True, False)
    """
    again = "" if refresh is None else f" This page loads itself again every {refresh} seconds until the run ends."
    parts = [f'<header><h1>{text(run.title)}</h1><p class="quiet">{text(run.state)}.{again}</p></header>', _cards(run)]
    if epochs_of(run.metrics):
        parts.append(section("Curves", _curves(run)))
    if run.outcome is not None:
        parts.append(section("Confusion matrix", _confusion(run.outcome)))
        parts.append(section("Worst mistakes", _mistakes(run.outcome)))
    if run.filters_after is not None:
        parts.append(section("Filters of the first convolution", _filters(run.filters_before, run.filters_after)))
    if run.summary is not None:
        parts.append(section("Layers", _layers(run.summary)))
    for title, caption, values in (
        ("Configuration", "Every setting, as resolved; also in config.toml", run.settings),
        ("Environment", "What the run ran on; also in environment.json", run.environment),
    ):
        if values:
            parts.append(section(title, facts(caption, values)))
    return page(run.title, "\n".join(parts), refresh)


def _cards(run: Run) -> str:
    epochs = epochs_of(run.metrics)
    cards = []
    if epochs:
        last = epochs[-1]
        for key, words in (("test", "Test"), ("val", "Validation"), ("train", "Training")):
            if last.get(f"{key}_accuracy") is not None:
                cards.append((f"{words} accuracy", _exactly(last[f"{key}_accuracy"], ".2%")))
        cards.append(("Epochs", str(last["epoch"])))
        seconds = sum(values.get("seconds") or 0 for values in epochs)
        cards.append(("Training time", f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"))
        cards.append(("Images per second", f"{last.get('images_per_second') or 0:,.0f}"))
    if run.summary is not None:
        cards.append(("Parameters", f"{run.summary.parameters:,}"))
    return f'<dl class="cards">{"".join(f"<div><dt>{what}</dt><dd>{value}</dd></div>" for what, value in cards)}</dl>'


def _exactly(value: Any, form: str) -> str:
    """Return a number rounded for display, with the exact value for programs; a dash for None."""
    return "-" if value is None else f'<data value="{value!r}">{value:{form}}</data>'


def _curves(run: Run) -> str:
    ends: dict[str, tuple[float | None, float | None]] = {"loss": (0, None), "accuracy": (None, 1)}
    drawn = ((what, series_of(run.metrics, what)) for what in ends)
    charts = [chart(what.capitalize(), series, what, ends[what]) for what, series in drawn if series]
    columns = [(f"{words} {what}", f"{key}_{what}") for key, words in SPLITS for what in ("loss", "accuracy")]
    rows = (
        [str(v["epoch"]), *(_exactly(v.get(key), ".4f") for _, key in columns), f"{v.get('seconds') or 0:.1f}"]
        for v in epochs_of(run.metrics)
    )
    numbers = table("One row per epoch", ["epoch", *(words for words, _ in columns), "seconds"], rows)
    return f'<div class="row">{"".join(charts)}</div><details><summary>All numbers</summary>{numbers}</details>'


def _confusion(outcome: Outcome) -> str:
    about = (
        f"{outcome.count:,} test images of {name(outcome.data)}, {np.trace(outcome.confusion):,} answered rightly: "
        f"{_exactly(outcome.accuracy, '.4f')}. A row is the true class, a column the answer."
    )
    draw = _confusion_table if len(outcome.class_names) <= MOST_CLASSES else _confusion_picture
    return f"<p>{about}</p>{draw(outcome)}"


def _confusion_table(outcome: Outcome) -> str:
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
            cells.append(
                f'<td class="{kind}" style="--share: {share:.3f}">{count}</td>' if count else '<td class="none">0</td>'
            )
        rows.append(
            f'<tr><th scope="row">{label}</th>{"".join(cells)}<td>{_share(counts[i, i], counts[i].sum())}</td></tr>'
        )
    precision = "".join(f"<td>{_share(counts[i, i], counts[:, i].sum())}</td>" for i in range(len(names)))
    head = "".join(f'<th scope="col">{label}</th>' for label in names)
    return scrolling(
        "Confusion matrix",
        '<table class="confusion"><caption><span>Recall: the right share of a row; precision: of a column</span></caption>'
        f'<thead><tr><th scope="col">true \\ answer</th>{head}<th scope="col">recall</th></tr></thead>'
        f'<tbody>{"".join(rows)}<tr><th scope="row">precision</th>{precision}<td></td></tr></tbody></table>',
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.4f}" if whole else "-"


def _confusion_picture(outcome: Outcome) -> str:
    counts = np.asarray(outcome.confusion)
    K = len(outcome.class_names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    pixels = enlarged(coloured(np.sqrt(shares), WARM), max(600 // K, 1))
    alt = f"Confusion matrix of {K} classes; correct predictions lie on the diagonal. The most frequent mistakes are listed"
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CLASSES]
    pairs = [(int(at) // K, int(at) % K) for at in order if wrong.flat[at]]
    rows = (
        [
            name(outcome.class_names[i]),
            name(outcome.class_names[j]),
            f"{wrong[i, j]}",
            _share(wrong[i, j], counts[i].sum()),
        ]
        for i, j in pairs
    )
    words = table("The most frequent mistakes", ["true class", "answer", "times", "share of the class"], rows, "words")
    caption = "Row: true class, column: answer, both from the first class at the top left; lighter is more"
    return f'<div class="row">{picture(pixels, alt, caption)}{words if pairs else ""}</div>'


def _mistakes(outcome: Outcome) -> str:
    if not outcome.mistakes:
        return "<p>None: every test image is answered rightly.</p>"
    tiles = []
    for mistake in outcome.mistakes:
        label, answer = outcome.class_names[mistake.label], outcome.class_names[mistake.answer]
        pixels = _tile(image_pixels(mistake.image))
        H, W = pixels.shape[:2]
        alt = text(f"Test image of class {label}, answered {answer}")
        tiles.append(
            f'<li><figure><img src="{data_uri(pixels)}" alt="{alt}" width="{W}" height="{H}"><figcaption>{name(label)} '
            f"as <b>{name(answer)}</b> ({mistake.confidence:.1%})</figcaption></figure></li>"
        )
    count = outcome.count - int(np.trace(outcome.confusion))
    about = f"{len(tiles)} of {count:,} mistakes, the highest loss first: the true class, the answer, its probability."
    return f'<p>{about}</p><ul class="tiles">{"".join(tiles)}</ul>'


def _tile(pixels: Any) -> Any:
    """Return an image scaled down to at most ``LARGEST_TILE`` rows and columns."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST_TILE, LARGEST_TILE), Image.Resampling.BOX)
    return np.asarray(picture)


def _filters(before: Any, after: Any) -> str:
    shown = [("after training", after)]
    if before is not None and before.shape == after.shape:
        shown.insert(0, ("before training", before))
    largest = max(float(np.abs(shown_filters(stack)).max()) for _, stack in shown)
    F, C, KH, KW = after.shape
    about = f"{F} filters of {KH}x{KW} pixels" + (f", the first {MOST_FILTERS} shown" if F > MOST_FILTERS else "")
    if C == 3:
        about += f"; red, green and blue are the three channels, grey is 0, black {-largest:.2f}, white {largest:.2f}."
    else:
        about += (", the mean of their channels" if C > 1 else "") + (
            f"; blue is negative, white 0, red positive, full colour {largest:.2f}. Both images have one scale."
        )
    figures = [
        picture(sheet(filter_pixels(stack[:MOST_FILTERS], largest)), f"Filters of the first convolution {when}", when)
        for when, stack in shown
    ]
    return f'<p>{about}</p><div class="row">{"".join(figures)}</div>'


def _layers(summary: Summary) -> str:
    head = ["layer", "class", "output", "parameters", "multiply-adds", "sees (pixels)"]
    rows = (
        [
            text(row.name or "-"),
            text(row.kind),
            "x".join(map(str, row.output_shape[1:])),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
            "-" if row.receptive_field is None else "x".join(map(str, row.receptive_field)),
        ]
        for row in summary.rows
    )
    size = "x".join(map(str, summary.input_shape))
    caption = (
        f"{summary.model} on one image of {size}, {summary.dtype}: {summary.parameters:,} parameters, "
        f"{summary.multiply_adds:,} multiply-adds; more in summary.txt"
    )
    layers = table(caption, head, rows, "words")
    few = len(summary.rows) <= MOST_LAYERS
    return layers if few else f"<details><summary>All {len(summary.rows)} layers</summary>{layers}</details>"
