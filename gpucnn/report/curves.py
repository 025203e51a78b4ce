"""The numbers of ``metrics.jsonl`` as series for charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpucnn.report.charts import Series

MOST_STEPS = 600
"""Points of the line of single steps; more cannot be distinguished."""

LARGEST = 1e15
"""Larger numbers do not come from training."""

SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))


def epochs_of(metrics: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the objects of ``metrics.jsonl`` for whole epochs; a file may hold others, and invalid ones.

    >>> epochs_of([{"step": 100, "loss": 2.0}, {"step": 200, "epoch": 1, "train_loss": 1.0}])
    [{'step': 200, 'epoch': 1, 'train_loss': 1.0}]
    """
    return [
        values
        for values in metrics
        if is_number(values.get("train_loss"))
        and all(isinstance(values.get(key), int) and 0 < values[key] < LARGEST for key in ("epoch", "step"))
        and all(value is None or is_number(value) for value in values.values())
    ]


def is_number(value: Any) -> bool:
    """Whether ``value``, from a file, is a number that can be drawn.

    >>> is_number(0.5), is_number("0.5"), is_number(float("nan"))
    (True, False, False)
    """
    return isinstance(value, (int, float)) and abs(value) < LARGEST


def series_of(metrics: Sequence[Mapping[str, Any]], what: str) -> list[Series]:
    """Return the available series of "loss" or "accuracy", within epochs and for whole ones.

    >>> metrics = [{"epoch": 1, "step": 9, "train_loss": 1.5, "val_loss": None, "test_loss": 1.0}]
    >>> [(series.name, series.points) for series in series_of(metrics, "loss")]
    [('training', ((1, 1.5),)), ('test', ((1, 1.0),))]
    """
    epochs = epochs_of(metrics)
    found = []
    if within := _within(metrics, what):
        found.append(Series("within epochs", "steps", _thinned(within)))
    elif what == "loss" and epochs:  # a run of gpucnn 0.1.0
        batches = steps_of(metrics) or 1
        noted = [v for v in metrics if is_number(v.get("loss")) and is_number(v.get("step"))]
        steps = [(values["step"] / batches, values["loss"]) for values in noted]
        found.append(Series("single steps", "steps", _thinned(steps)))
    for key, name in SPLITS:
        points = ((values["epoch"], values.get(f"{key}_{what}")) for values in epochs)
        found.append(Series(name, key, tuple((x, y) for x, y in points if y is not None)))
    return [series for series in found if series.points]


def _within(metrics: Iterable[Mapping[str, Any]], what: str) -> list[tuple[float, float]]:
    """Return (epochs done, mean since the point before) from the running means that were noted within epochs."""
    points: list[tuple[float, float]] = []
    epoch, before, total = 0, 0.0, 0.0
    for values in metrics:
        if not all(is_number(values.get(key)) for key in (f"running_{what}", "progress", "epoch")):
            continue
        if values["epoch"] != epoch:
            epoch, before, total = values["epoch"], 0.0, 0.0
        share = values["progress"] - (epoch - 1)
        if share > before:
            mean = values[f"running_{what}"]
            points.append((values["progress"], (mean * share - total) / (share - before)))
            before, total = share, mean * share
    return points


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple(points[:: -(-len(points) // MOST_STEPS) or 1])


def rates_of(metrics: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Return the series of the learning rate, for single steps and epochs; none if no rate was recorded.

    >>> rates_of([{"epoch": 1, "step": 9, "train_loss": 1.5, "lr": 0.1}])[0].points
    ((1.0, 0.1),)
    """
    batches = steps_of(metrics)
    noted = [v for v in metrics if is_number(v.get("lr")) and is_number(v.get("step"))]
    if batches is None or not noted:
        return []
    points = sorted({values["step"] / batches: values["lr"] for values in noted}.items())
    return [Series("learning rate", "train", _thinned(points))]


def steps_of(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the steps of an epoch; None before the first is done."""
    epochs = epochs_of(metrics)
    return epochs[-1]["step"] / epochs[-1]["epoch"] if epochs else None


def best_epoch(metrics: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the first epoch of the highest validation accuracy; None without one.

    >>> accuracies = ((1, 0.5), (2, 0.75), (3, 0.75))
    >>> best_epoch([{"epoch": e, "step": e, "train_loss": 1.0, "val_accuracy": a} for e, a in accuracies])
    2
    """
    measured = [values for values in epochs_of(metrics) if values.get("val_accuracy") is not None]
    return max(measured, key=lambda values: (values["val_accuracy"], -values["epoch"]))["epoch"] if measured else None
