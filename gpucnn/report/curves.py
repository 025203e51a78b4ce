"""The numbers of ``metrics.jsonl`` as series, and series as a chart: an SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpucnn.report.html import text

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 46
MOST_STEPS = 600
"""Points of the line of single steps; more cannot be distinguished."""
MOST_DOTS = 40
"""Most points that are marked one by one, with their value as a tooltip."""

LARGEST = 1e15
"""Larger numbers do not come from training."""

SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))


@dataclass(frozen=True)
class Series:
    """A line: what it is called, how it is drawn ("train", "val", "test", "steps"), and its points (epoch, value).

    >>> Series("test", "test", ((1, 0.5), (2, 0.25))).points[-1]
    (2, 0.25)
    """

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]


def epochs_of(metrics: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those objects of ``metrics.jsonl`` of whole epochs; a file may hold others, and invalid ones.

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
    """Whether ``value``, which a file gave, is a number that can be drawn.

    >>> is_number(0.5), is_number("0.5"), is_number(float("nan"))
    (True, False, False)
    """
    return isinstance(value, (int, float)) and abs(value) < LARGEST


def series_of(metrics: Sequence[Mapping[str, Any]], what: str) -> list[Series]:
    """Return the series of "loss" or "accuracy" that there are numbers for; of the loss, that of single steps too.

    >>> metrics = [{"epoch": 1, "step": 9, "train_loss": 1.5, "val_loss": None, "test_loss": 1.0}]
    >>> [(series.name, series.points) for series in series_of(metrics, "loss")]
    [('training', ((1, 1.5),)), ('test', ((1, 1.0),))]
    """
    epochs = epochs_of(metrics)
    found = []
    if what == "loss" and epochs:
        batches = epochs[-1]["step"] / epochs[-1]["epoch"]
        noted = [v for v in metrics if is_number(v.get("loss")) and is_number(v.get("step"))]
        steps = [(values["step"] / batches, values["loss"]) for values in noted]
        found.append(Series("single steps", "steps", tuple(steps[:: -(-len(steps) // MOST_STEPS) or 1])))
    for key, name in SPLITS:
        points = ((values["epoch"], values.get(f"{key}_{what}")) for values in epochs)
        found.append(Series(name, key, tuple((x, y) for x, y in points if y is not None)))
    return [series for series in found if series.points]


def chart(title: str, series: Sequence[Series], y_label: str, ends: tuple[float | None, float | None]) -> str:
    """Return series over the epochs as SVG with its legend. ends: of the y axis; None where the numbers decide.

    >>> svg = chart("Loss", [Series("test", "test", ((1, 0.5),))], "loss", (0, None))
    >>> "<title>test, epoch 1: 0.5</title>" in svg
    True
    """
    ys = [y for one in series for _, y in one.points]
    low, high = (choose(ys) if end is None else end for end, choose in zip(ends, (min, max), strict=True))
    y_ticks = ticks(low, high if high > low else low + 1)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    last = max(x for one in series for x, _ in one.points)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / last, (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in y_ticks:
        _, row = place(0, y)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{row + 5:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(0, math.floor(last), whole=True):
        column, _ = place(x, low)
        parts.append(f'<text x="{column:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">epoch</text>')
    for one in series:
        places = [place(x, y) for x, y in one.points]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="line {one.kind}" points="{path}"/>')
        if len(places) <= MOST_DOTS and one.kind != "steps":
            for (column, row), (x, y) in zip(places, one.points, strict=True):
                words = f"<title>{text(one.name)}, epoch {x:g}: {y:.4g}</title>"
                parts.append(f'<circle class="{one.kind}" cx="{column:.1f}" cy="{row:.1f}" r="4">{words}</circle>')
    finals = "; ".join(f"{one.name} {one.points[-1][1]:.4g}" for one in series)
    about = f"{title}: {y_label} over {last:g} epochs, at the end {finals}"
    keys = "".join(
        f'<li><svg viewBox="0 0 36 14" aria-hidden="true"><line class="line {one.kind}" x1="2" x2="34" y1="7" y2="7"/></svg>'
        f"{text(one.name)}</li>"
        for one in series
    )
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(about)}">{"".join(parts)}</svg>'
    return f'<figure><h3>{text(title)}</h3><ul class="legend">{keys}</ul>{svg}</figure>'


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return about five round numbers (1, 2 or 5 times a power of ten apart) of which all but the ends are inside.

    whole: whole numbers, all inside.

    >>> ticks(0, 0.83), ticks(1, 5, whole=True)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [1, 2, 3, 4, 5])
    """
    power = 10.0 ** math.floor(math.log10(max(high - low, 1e-12) / 5))
    step = next(times * power for times in (1, 2, 5, 10) if (high - low) / (times * power) <= 5.5)
    if whole:
        apart = max(math.ceil(step), 1)
        first = low if apart == 1 else -(-low // apart) * apart
        return [first + i * apart for i in range(int((high - first) // apart) + 1)]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(int(first), int(last) + 1)]
