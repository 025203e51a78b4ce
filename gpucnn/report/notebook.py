"""Curves that grow while a network learns, in a notebook (needs IPython, which is there, and Matplotlib)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from gpucnn.errors import GpucnnError
from gpucnn.report.plots import draw_curves, figure_class, png_of


class LiveCurves:
    """A figure of loss and accuracy in a notebook's output, drawn anew for each epoch that it is called with.

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
        self._epochs: list[dict[str, Any]] = []

    def __call__(self, values: Mapping[str, Any]) -> None:
        """Add an epoch and draw."""
        plain = {f"train_{key}": values[key] for key in ("loss", "accuracy") if key in values}  # of Classifier
        self._epochs.append({"step": values["epoch"], **plain, **values, "loss": None})
        page = self._figure(layout="constrained", dpi=100)
        draw_curves(page, [{k: v for k, v in epoch.items() if v is not None} for epoch in self._epochs])
        picture = self._display.Image(data=png_of(page))
        if self._handle is None:
            self._handle = self._display.display(picture, display_id=True)
        else:
            self._handle.update(picture)
