"""Curves that are updated during training, in a notebook (needs IPython, which notebooks have, and Matplotlib)."""

from __future__ import annotations

import importlib
import io
import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

from gpucnn.errors import GpucnnError, how_to_add
from gpucnn.report.curves import series_of

STYLES: dict[str, dict[str, Any]] = {
    "steps": {"color": "tab:blue", "linewidth": 0.7, "alpha": 0.5},
    "train": {"color": "tab:blue", "marker": "o"},
    "val": {"color": "tab:orange", "marker": "s", "linestyle": "--"},
    "test": {"color": "tab:green", "marker": "^", "linestyle": ":"},
}


EVERY = 1.0
"""Seconds between drawings within an epoch, at least: a drawing takes a tenth of a second."""


class LiveCurves:
    """A figure of loss and accuracy in a notebook's output, redrawn several times an epoch.

    Call it with the metrics of an epoch, as in ``metrics.jsonl`` or ``Classifier.history``: by
    ``classifier.fit(x, y, callback=LiveCurves())``, or ``Trainer(..., reporter=EachEpoch(LiveCurves()))``.
    GpucnnError without Matplotlib or IPython.

    >>> live = LiveCurves()  # doctest: +SKIP
    >>> live({"epoch": 1, "train_loss": 0.5, "test_loss": 0.4})  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._figure = figure_class()
        try:
            display = importlib.import_module("IPython.display")
        except ImportError:
            raise GpucnnError("LiveCurves draws in notebooks and needs IPython: pip install ipython.") from None
        self._display = display
        self._handle: Any = None
        self._metrics: list[dict[str, Any]] = []
        self._drawn = -math.inf

    def log(self, values: Mapping[str, Any]) -> None:
        """Add values of the current epoch, and draw unless that was done within the last second."""
        self._metrics.append(dict(values))
        if time.monotonic() - self._drawn > EVERY:
            self._draw()

    def __call__(self, values: Mapping[str, Any]) -> None:
        """Add an epoch and draw."""
        plain = {f"train_{key}": values[key] for key in ("loss", "accuracy") if key in values}  # of Classifier
        known = {k: v for k, v in {**plain, **values}.items() if v is not None and k != "loss"}
        self._metrics.append({"step": values["epoch"], **known})
        self._draw()

    def _draw(self) -> None:
        page = self._figure(layout="constrained", dpi=100)
        draw_curves(page, self._metrics)
        picture = self._display.Image(data=png_of(page))
        if self._handle is None:
            self._handle = self._display.display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn = time.monotonic()


def figure_class() -> Any:
    """Return Matplotlib's Figure; GpucnnError, with the command that installs it, if it is missing."""
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
