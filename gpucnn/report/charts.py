"""Charts as SVG, with the colours of the page: lines over epochs, columns, calibration, a confusion matrix.

Values appear under the pointer: each position on an axis has a rectangle over it with all values there as its tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.formats import ABSENT, cut, percent
from gpucnn.report.html import folded, table, text

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 106, 16, 46, 52
LETTER = 12
"""Units that a digit takes on a phone, where text is largest."""
MOST_DOTS = 40
"""Most points that are marked one by one."""
MOST_PLACES = 400
"""Most places of the x axis with a tooltip."""
NAMED = 15
"""Units between the names above the columns of a matrix, which are turned: closer ones would touch."""
COLOURS = 8
"""Colours of lines that are not told apart by what they are: ``colour_of``."""


@dataclass(frozen=True)
class Series:
    """A line: its name, its style ("train", "val", "test", "steps" or ``colour_of``), and its points (x, y).

    >>> Series("test", "test", ((1, 0.5), (2, 0.25))).points[-1]
    (2, 0.25)
    """

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]


def colour_of(place: int) -> str:
    """Return the style of the line number ``place`` of many: first solid lines in all colours, then dashed ones.

    >>> colour_of(0), colour_of(9)
    ('c0', 'c1 d1')
    """
    dashes = place // COLOURS % 4
    return f"c{place % COLOURS}" + (f" d{dashes}" if dashes else "")


def chart(
    title: str,
    series: Sequence[Series],
    y_label: str,
    ends: tuple[float | None, float | None],
    steps: float | None = None,
    best: float | None = None,
    named: bool = True,
    numbers: bool = False,
) -> str:
    """Return series over the epochs as a figure: title, legend (unless not ``named``) and ``chart_svg``.

    numbers: also as a table, folded away, for those who cannot point at a line.

    >>> svg = chart("Loss", [Series("test", "test", ((1, 0.5),))], "loss", (0, None))
    >>> "<title>epoch 1\\ntest: 0.5</title>" in svg
    True
    """
    svg = chart_svg(title, series, y_label, ends, steps, best)
    more = ""
    if numbers:
        of = [dict(one.points) for one in series]
        xs = sorted(set().union(*of))[:MOST_PLACES]
        rows = ([f"{x:g}", *(f"{points[x]:.4g}" if x in points else ABSENT for points in of)] for x in xs)
        more = folded("Numbers", table(title, ["epoch", *(cut(one.name, 40) for one in series)], rows))
    return f"<figure><h3>{text(title)}</h3>{legend(series) if named else ''}{svg}{more}</figure>"


def chart_svg(
    title: str,
    series: Sequence[Series],
    y_label: str,
    ends: tuple[float | None, float | None],
    steps: float | None = None,
    best: float | None = None,
) -> str:
    """Return series over the epochs as SVG.

    ends: of the y axis; None to take them from the values. steps: per epoch, for a second scale. best: the epoch to mark.
    """
    ys = [y for one in series for _, y in one.points]
    low, high = (choose(ys) if end is None else end for end, choose in zip(ends, (min, max), strict=True))
    y_ticks = ticks(low, high if high > low else low + 1)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    last = max(x for one in series for x, _ in one.points)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / last, (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = _frame(y_ticks, y_label, lambda y: place(0, y)[1])
    whole = ticks(0, math.floor(last), whole=True)
    widest = len(f"{last * (steps or 0):,.0f}") * LETTER
    every = max(math.ceil(widest * len(whole) / (WIDTH - LEFT - RIGHT)), 1)
    apart = every * (place(whole[1], low)[0] - place(whole[0], low)[0]) if len(whole) > 1 else 0.0
    shown = whole[::every]
    if len(shown) > 1 and shown[-1] == last and apart < 1.5 * widest + LETTER:
        del shown[-2]  # the last one ends where the line does
    for x in whole:
        column, row = place(x, low)
        parts.append(_line("tick", column, row, column, row + 5))
        parts.append(_text(column, row + 22, f"{x:g}", "middle"))
        if steps is not None and x in shown:
            parts.append(_text(column, TOP - 18, f"{x * steps:,.0f}", "end" if x == last else "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "epoch", "middle"))
    if steps is not None:
        parts.append(_text(4, TOP - 18, "step", "start"))
    if best is not None:
        column, row = place(best, high)
        parts.append(_line("best", column, row, column, HEIGHT - BOTTOM))
        near_end = column > WIDTH - RIGHT - 60
        heights = [place(x, y)[1] for one in series for x, y in one.points if x == best]
        above = sum(heights) / len(heights) < (TOP + HEIGHT - BOTTOM) / 2 if heights else False
        row = HEIGHT - BOTTOM - 8 if above else row + 14  # where the lines are not
        parts.append(_text(column + (-5 if near_end else 5), row, "best", "end" if near_end else "start"))
    for one in series:
        places = [place(x, y) for x, y in one.points]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="line {one.kind}" points="{path}"/>')
        if len(places) <= MOST_DOTS and one.kind != "steps":
            parts += [f'<circle class="{one.kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    parts += _tooltips(series, lambda x: place(x, low)[0])
    finals = "; ".join(f"{one.name} {one.points[-1][1]:.4g}" for one in series)
    about = f"{title}: {y_label} over {last:g} epochs, at the end {finals}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(about)}">{"".join(parts)}</svg>'


def legend(series: Sequence[Series]) -> str:
    """Return the names of series beside their lines."""
    keys = (f"<li>{sample(one.kind)}<bdi>{text(cut(one.name, 40))}</bdi></li>" for one in series)
    return f'<ul class="legend">{"".join(keys)}</ul>'


def sample(kind: str) -> str:
    """Return a short piece of the line of a series, for a legend or a table."""
    line = f'<line class="line {kind}" x1="2" x2="34" y1="7" y2="7"/>'
    return f'<svg class="key" viewBox="0 0 36 14" aria-hidden="true">{line}</svg>'


def _frame(y_ticks: Sequence[float], label: str, row_of: Any) -> list[str]:
    """Return the lines and numbers of the y axis, and what it shows."""
    parts = []
    for y in y_ticks:
        row = row_of(y)
        parts.append(_line("axis", LEFT, row, WIDTH - RIGHT, row))
        parts.append(_text(LEFT - 8, row + 5, f"{y:g}", "end"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'<text x="19" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 19 {middle:.0f})">'
    return [*parts, f"{turned}{text(label)}</text>"]


def _tooltips(series: Sequence[Series], column_of: Any) -> list[str]:
    """Return a rectangle over each place of the x axis where there are points, with their values as its tooltip."""
    at: dict[float, list[str]] = {}
    for one in series:
        if one.kind != "steps":
            for x, y in one.points:
                at.setdefault(x, []).append(f"{one.name}: {y:.4g}")
    xs = sorted(at)
    xs = xs[:: -(-len(xs) // MOST_PLACES) or 1]
    parts = []
    for i, x in enumerate(xs):
        left = LEFT if i == 0 else (column_of(xs[i - 1]) + column_of(x)) / 2
        right = WIDTH if i == len(xs) - 1 else (column_of(x) + column_of(xs[i + 1])) / 2
        words = text("\n".join([f"epoch {x:g}", *at[x]]))
        parts.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{words}</title></rect>"
        )
    return parts


def columns(title: str, names: Sequence[str], values: Sequence[float], y_label: str) -> str:
    """Return one column for each name as SVG; names are written if there is room for them.

    >>> "<title>cat: 3</title>" in columns("Images", ["cat", "dog"], [3, 4], "images")
    True
    """
    y_ticks = ticks(0, max([*values, 1]))
    high = y_ticks[-1]
    wide = (WIDTH - LEFT - RIGHT) / len(names)

    def row_of(value: float) -> float:
        return HEIGHT - BOTTOM - value / high * (HEIGHT - TOP - BOTTOM)

    parts = _frame(y_ticks, y_label, row_of)
    letters = min(max(map(len, names)), 6)
    every = max(math.ceil((letters + 1) * LETTER / wide), 1)
    room = max(int(wide * every / LETTER) - 1, 1)  # so that names do not touch
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        left, row = LEFT + i * wide, row_of(value)
        parts.append(
            f'<rect class="column" x="{left + wide * 0.1:.1f}" y="{row:.1f}" width="{wide * 0.8:.1f}" '
            f'height="{HEIGHT - BOTTOM - row:.1f}"><title>{text(name)}: {value:,}</title></rect>'
        )
        if every == 1:
            parts.append(_text(left + wide / 2, HEIGHT - BOTTOM + 22, cut(name, room), "middle"))
        elif i % every == 0 and i + every <= len(names):
            parts.append(_text(left, HEIGHT - BOTTOM + 22, cut(name, room), "start"))
    about = f"{title}: {len(names)} columns, from {min(values):,} to {max(values):,}"
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(about)}">{"".join(parts)}</svg>'
    return f"<figure><h3>{text(title)}</h3>{svg}</figure>"


def calibration_chart(bins: Sequence[tuple[float, float, int]], error: float) -> str:
    """Return accuracy against confidence as SVG: a column for each bin of (mean confidence, accuracy, images).

    error: the expected calibration error (Guo et al. 2017), 0 to 1.
    """
    wide = (WIDTH - LEFT - RIGHT) / len(bins)
    low = HEIGHT - BOTTOM

    def row_of(share: float) -> float:
        return low - share * (low - TOP)

    parts = _frame([0, 0.2, 0.4, 0.6, 0.8, 1.0], "accuracy", row_of)
    for i, (confidence, accuracy, count) in enumerate(bins):
        left = LEFT + i * wide
        words = f"no images between {percent(i / len(bins), 0)} and {percent((i + 1) / len(bins), 0)}"
        if count:
            row = row_of(accuracy)
            words = f"confidence {percent(confidence, 1)}: {percent(accuracy, 1)} correct of {count:,} images"
            parts.append(
                f'<rect class="column" x="{left + 1:.1f}" y="{row:.1f}" width="{wide - 2:.1f}" height="{low - row:.1f}"/>'
            )
        parts.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{wide:.1f}" height="{low - TOP}">'
            f"<title>{text(words)}</title></rect>"
        )
    for i in range(0, len(bins) + 1, 2):
        parts.append(_text(LEFT + i * wide, low + 22, f"{i / len(bins):g}", "middle"))
    parts.append(_line("best", LEFT, low, WIDTH - RIGHT, TOP))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "confidence", "middle"))
    about = f"Calibration: accuracy for each tenth of confidence; expected calibration error {percent(error)}"
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(about)}">{"".join(parts)}</svg>'
    return f"<figure><h3>Calibration</h3>{svg}</figure>"


def matrix_chart(counts: Any, names: Sequence[str], numbers: bool = False) -> str:
    """Return a confusion matrix (K, K) as SVG: one colour for correct, one for wrong, stronger for larger shares of a row.

    Class names are written beside the rows and above the columns if there is room, and every cell that is not empty has its
    classes and count as tooltip. numbers: also write the counts into the cells if there is room.
    """
    counts = np.asarray(counts)
    K = len(names)
    side, margin, beyond = 640.0, 120.0, 60.0
    cell = (side - margin) / K
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    parts = [f'<rect class="frame" x="{margin}" y="{margin}" width="{side - margin}" height="{side - margin}"/>']
    every = max(math.ceil(NAMED / cell), 1)
    for i in range(0, K, every):
        middle = margin + (i + 0.5) * cell
        name = text(cut(names[i], 14))
        parts.append(f'<text x="{margin - 6}" y="{middle + 4:.1f}" text-anchor="end">{name}</text>')
        turn = f"rotate(-60 {middle:.1f} {margin - 6})"
        parts.append(f'<text x="{middle:.1f}" y="{margin - 6}" text-anchor="start" transform="{turn}">{name}</text>')
    for i, j in zip(*np.nonzero(counts), strict=True):
        kind = "right" if i == j else "wrong"
        faint, span = (0.1, 0.5) if numbers else (0.15, 0.85)  # numbers can be read on the strongest cell
        strength = faint + span * math.sqrt(shares[i, j])
        words = f"{names[i]} answered as {names[j]}: {counts[i, j]:,} ({percent(shares[i, j], 1)})"
        parts.append(
            f'<rect class="cell {kind}" x="{margin + j * cell:.2f}" y="{margin + i * cell:.2f}" width="{cell:.2f}" '
            f'height="{cell:.2f}" fill-opacity="{strength:.2f}"><title>{text(words)}</title></rect>'
        )
        if numbers and cell > 24:
            place = f'x="{margin + (j + 0.5) * cell:.1f}" y="{margin + (i + 0.5) * cell + 5:.1f}"'
            parts.append(f'<text class="ink" {place} text-anchor="middle">{counts[i, j]}</text>')
    about = (
        f"Confusion matrix of {K} classes: rows are true classes, columns predictions; correct ones are on the diagonal"
    )
    box = f'viewBox="0 0 {side + beyond:.0f} {side:.0f}"'
    return f'<svg class="matrix" {box} role="img" aria-label="{text(about)}">{"".join(parts)}</svg>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return about five round numbers, 1, 2 or 5 times a power of ten apart; all but the ends are inside.

    whole: integers, all inside.

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
