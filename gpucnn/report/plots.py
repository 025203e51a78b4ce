"""The plots of a run as PNG files, for papers and slides (needs Matplotlib, the ``plots`` extra).

Figures are made as objects; Matplotlib's global state and its windows are left alone.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpucnn.errors import GpucnnError, how_to_add
from gpucnn.report.curves import epochs_of, series_of
from gpucnn.report.image_report import MOST_ANSWERS, Look, heats, map_pixels
from gpucnn.report.images import SIGNED, coloured, filter_pixels, image_pixels, sheet, shown_filters
from gpucnn.report.outcome import MOST_CLASSES, Outcome
from gpucnn.report.run_report import MOST_FILTERS, Run

STYLES: dict[str, dict[str, Any]] = {
    "steps": {"color": "tab:blue", "linewidth": 0.7, "alpha": 0.5},
    "train": {"color": "tab:blue", "marker": "o"},
    "val": {"color": "tab:orange", "marker": "s", "linestyle": "--"},
    "test": {"color": "tab:green", "marker": "^", "linestyle": ":"},
}

DPI = 150


def plots(run: Run) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, PNG bytes) of curves, filters, confusion and mistakes, where the run has what they show.

    GpucnnError without Matplotlib.

    >>> from gpucnn.inspect import Run
    >>> for name, content in plots(Run("lenet", "done", filters_after=np.ones((6, 1, 5, 5)))):  # doctest: +SKIP
    ...     Path(name).write_bytes(content)
    """
    figure = figure_class()
    drawn: list[tuple[str, Callable[[Any], None]]] = []
    if epochs_of(run.metrics):
        drawn.append(("curves.png", lambda page: draw_curves(page, run.metrics)))
    if run.filters_after is not None:
        drawn.append(("filters.png", lambda page: _draw_filters(page, run.filters_before, run.filters_after)))
    if (outcome := run.outcome) is not None:
        drawn.append(("confusion.png", lambda page: _draw_confusion(page, outcome)))
        drawn.append(("mistakes.png", lambda page: _draw_mistakes(page, outcome)))
    for name, draw in drawn:
        page = figure(layout="constrained", dpi=DPI)
        draw(page)
        yield name, png_of(page)


def figure_class() -> Any:
    """Return Matplotlib's Figure; GpucnnError, with the command that adds it, where it is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise GpucnnError(f"Plots need Matplotlib. Install it: {how_to_add('plots')}.") from None
    return Figure


def png_of(page: Any) -> bytes:
    """Return a Matplotlib figure as the bytes of a PNG file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that Matplotlib's font has not are drawn as boxes
        page.savefig(file, format="png")
    return file.getvalue()


def draw_curves(page: Any, metrics: Any) -> None:
    """Draw the loss and the accuracy side by side on a Matplotlib figure."""
    page.set_size_inches(10, 4)
    for axes, what in zip(page.subplots(1, 2), ("loss", "accuracy"), strict=True):
        drawn = series_of(metrics, what)
        for series in drawn:
            xs, ys = zip(*series.points, strict=True)
            axes.plot(xs, ys, label=series.name, markersize=4, **STYLES[series.kind])
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if drawn:
            axes.legend()


def _draw_filters(page: Any, before: Any, after: Any) -> None:
    stacks = {"after training": after}
    if before is not None and before.shape == after.shape:
        stacks = {"before training": before, **stacks}
    largest = max(float(np.abs(shown_filters(stack)).max()) for stack in stacks.values())
    page.set_size_inches(4.5 * len(stacks), 3.5)
    for axes, (title, stack) in zip(page.subplots(1, len(stacks), squeeze=False)[0], stacks.items(), strict=True):
        axes.imshow(sheet(filter_pixels(stack[:MOST_FILTERS], largest)), interpolation="nearest")
        axes.set_title(title)
        axes.axis("off")


def _draw_confusion(page: Any, outcome: Outcome) -> None:
    counts = np.asarray(outcome.confusion)
    K = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = K <= MOST_CLASSES
    page.set_size_inches(*[max(5, 0.6 * K) if few else 8] * 2)
    axes = page.subplots()
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="answer", ylabel="true class", title=f"{outcome.count:,} images, accuracy {outcome.accuracy:.4f}")
    if not few:
        return
    names = [_short(label) for label in outcome.class_names]
    axes.set_xticks(range(K), names, rotation=90 if max(map(len, names)) > 3 else 0, parse_math=False)
    axes.set_yticks(range(K), names, parse_math=False)
    for i, j in zip(*np.nonzero(counts), strict=True):
        dark = shares[i, j] > 0.3
        axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color="white" if dark else "black", fontsize=8)


def _draw_mistakes(page: Any, outcome: Outcome) -> None:
    if not outcome.mistakes:
        page.set_size_inches(5, 1)
        page.text(0.5, 0.5, "Every test image is answered rightly.", ha="center", va="center")
        return
    columns = min(6, len(outcome.mistakes))
    rows = -(-len(outcome.mistakes) // columns)
    page.set_size_inches(1.5 * columns, 1.9 * rows)
    axes = page.add_subplot()  # one for all tiles: one for each would take seconds
    for i, mistake in enumerate(outcome.mistakes):
        left, top = i % columns, i // columns * 1.3
        place = (left, left + 0.94, top + 0.94, top)
        axes.imshow(image_pixels(mistake.image), cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=place)
        label, answer = (_short(outcome.class_names[i]) for i in (mistake.label, mistake.answer))
        words = f"{label} as {answer}\n{mistake.confidence:.1%}"
        axes.text(left + 0.47, top - 0.04, words, ha="center", va="bottom", fontsize=8, parse_math=False)
    axes.set(xlim=(0, columns), ylim=(rows * 1.3 - 0.3, -0.3), aspect="equal")
    axes.axis("off")


def look_plot(found: Look, title: str) -> bytes:
    """Return a look as a PNG file; GpucnnError without Matplotlib."""
    label = _short(found.class_names[found.target])
    tiles = {"the image": image_pixels(found.image)} | {f"{k} for {label}": v for k, v in heats(found).items()}
    tiles |= {f"{which} edges": coloured((values + 1) / 2, SIGNED) for which, values in found.edges.items()}
    sheets = {f"maps of {key}": sheet(map_pixels(maps)[0]) for key, maps in found.maps.items()}
    columns = len(tiles)
    rows = 2 + -(-len(sheets) // columns)
    page = figure_class()(layout="constrained", dpi=DPI, figsize=(2.4 * columns, 2.5 * rows))
    page.suptitle(title, parse_math=False)
    grid = page.add_gridspec(rows, columns)
    for i, (caption, pixels) in enumerate((tiles | sheets).items()):
        row, column = (0, i) if i < columns else (2 + (i - columns) // columns, (i - columns) % columns)
        axes = page.add_subplot(grid[row, column])
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(caption, fontsize=9, parse_math=False)
        axes.axis("off")
    axes = page.add_subplot(grid[1, :])
    order = np.argsort(-found.probabilities, kind="stable")[:MOST_ANSWERS]
    axes.bar(range(len(order)), found.probabilities[order])
    axes.set_xticks(range(len(order)), [_short(found.class_names[i]) for i in order], parse_math=False)
    axes.set(ylabel="probability", ylim=(0, 1))
    return png_of(page)


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"
