"""Figures of the documentation as SVG files: cards with a title, in light and dark, which are legible on a phone."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpucnn.report.charts import Series, chart_svg, matrix_chart
from gpucnn.report.curves import best_epoch, series_of
from gpucnn.report.html import text
from gpucnn.report.images import png
from gpucnn.report.pictures import chart_rules

WIDTH = 480
"""Units across a figure, as across the report's charts."""
SHOWN = 360
"""Pixels across a figure where there is room, which is twice in the column of a page, and as much as a phone has."""
MARGIN, HEAD, LINE = 12, 44, 20
"""Units around a figure, of its title, and from line to line."""
LARGE, MIDDLE, SMALL = 450, 330, 286
"""Heights below the titles of figures that stand beside each other."""
COLOURS = 64
"""Colours that are kept of a small picture: the files stay small."""

STYLE = """
svg { color-scheme: light dark; } text { font-family: system-ui, sans-serif; }
.card { fill: var(--panel); stroke: var(--line); }
svg text { font-size: 17px; fill: var(--quiet); } svg .title { font-size: 19px; font-weight: 600; fill: var(--ink); }
svg .ink { fill: var(--ink); } svg .bad { fill: rgb(var(--wrong)); }
.matrix { overflow: visible; } .matrix text { font-size: 22px; } .matrix .ink { font-weight: 600; }
.box { fill: none; stroke: var(--quiet); } .mark { fill: rgb(var(--right) / .25); stroke: rgb(var(--right)); }
image { image-rendering: pixelated; }
"""


def few_colours(picture: Image.Image, most: int = COLOURS) -> Image.Image:
    """Return a colour picture with at most so many of its colours."""
    return picture.convert("RGB").quantize(most, dither=Image.Dither.NONE)


def small_png(pixels: Any) -> bytes:
    """Return uint8 pixels, grey (H, W) or RGB (H, W, 3), as the bytes of a small PNG file."""
    if pixels.ndim == 2:
        return png(pixels)
    file = io.BytesIO()
    few_colours(Image.fromarray(pixels)).save(file, "PNG", optimize=True)
    return file.getvalue()


def write(path: Path, title: str, height: float, parts: Iterable[str], about: str, shown: int = SHOWN) -> None:
    """Write a figure: its title, and parts that are placed from ``HEAD`` on down.

    about: the text alternative. shown: pixels across where there is room.
    """
    colours, rules = chart_rules()
    rules = "\n".join(
        line for line in rules.splitlines() if not line.startswith(("svg ", ".matrix", ".legend", "  font"))
    )
    high = HEAD + height + MARGIN
    inner = re.sub(r'<rect class="hit"[^>]*><title>[^<]*</title></rect>|<title>[^<]*</title>', "", "".join(parts))
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high:.0f}" width="{shown}" '
        f'height="{high * shown / WIDTH:.0f}" role="img" aria-label="{text(about)}"><style>{colours}{rules}{STYLE}</style>'
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{high - 1:.0f}" rx="10"/>'
        f'<text class="title" x="{MARGIN + 2}" y="28">{text(title)}</text>{inner}</svg>\n',
        encoding="utf-8",
    )


def words(x: float, y: float, said: str, anchor: str = "start", kind: str = "") -> str:
    """Return a line of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(said)}</text>'


def image(pixels: Any, x: float, y: float, side: float, high: float | None = None) -> str:
    """Return uint8 pixels as a picture ``side`` across."""
    content = base64.b64encode(small_png(pixels)).decode()
    size = f'x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side if high is None else high:.1f}"'
    return f'<image {size} href="data:image/png;base64,{content}"/>'


def nested(svg: str, y: float, high: float, x: float = 0) -> str:
    """Return a chart of the report at this height of a figure, in its whole width."""
    return svg.replace("<svg ", f'<svg x="{x}" y="{y}" width="{WIDTH}" height="{high}" ', 1)


def tiles(shown: Sequence[tuple[Any, ...]], columns: int = 4) -> tuple[list[str], float]:
    """Return pictures in rows with lines of text below each, and the height that they take.

    shown: of each, its pixels, or a list of pixels for pictures below each other, then its lines of text.
    """
    side = (WIDTH - 2 * MARGIN - (columns - 1) * 8) / columns
    parts, y = [], float(HEAD)
    for start in range(0, len(shown), columns):
        row, depth = shown[start : start + columns], 0.0
        for i, (pictures, *lines) in enumerate(row):
            x, below = MARGIN + i * (side + 8), y
            for one in pictures if isinstance(pictures, list) else [pictures]:
                parts.append(image(one, x, below, side))
                below += side + 6
            for said, kind in zip(lines, ("ink", "bad"), strict=False):
                below += LINE - 2 if said == lines[0] else LINE
                parts.append(words(x, below, said, kind=kind))
            depth = max(depth, below - y)
        y += depth + 12
    return parts, y - HEAD - 6


def write_tiles(path: Path, title: str, shown: Sequence[tuple[Any, ...]], about: str, least: float = 0) -> None:
    """Write pictures in rows of four as a figure. least: its height, to be as high as the one beside it."""
    parts, height = tiles(shown)
    write(path, title, max(height, least), parts, about)


def write_samples(path: Path, names: Sequence[str], images: Sequence[Any]) -> None:
    """Write a row of samples for each class, as large as there is room. images: see ``write_rows``."""
    write_rows(path, "Samples", names, images, max(min(len(names) * 4 // 5, 8), 3), LARGE)


def write_rows(
    path: Path, title: str, names: Sequence[str], images: Sequence[Any], columns: int, least: float = 0
) -> None:
    """Write a row of images for each name. images: of each, uint8 (n, H, W) or (n, H, W, 3); least: the figure's height."""
    beside = 108
    side = (WIDTH - beside - MARGIN) / columns - 4
    if least:
        side = min(side, least / len(names) - 4)
    parts = []
    for i, (name, row) in enumerate(zip(names, images, strict=True)):
        y = HEAD + i * (side + 4)
        parts.append(words(MARGIN, y + side / 2 + 6, name, kind="ink"))
        parts += [image(pixels, beside + j * (side + 4), y, side) for j, pixels in enumerate(row[:columns])]
    write(path, title, max(least, len(names) * (side + 4)), parts, f"{title}: {', '.join(names)}")


def write_confusion(path: Path, counts: Any, names: Sequence[str], title: str = "Confusion matrix") -> None:
    """Write a confusion matrix with its counts. Rows are true classes, columns answers."""
    svg = matrix_chart(counts, names, numbers=True)
    high = WIDTH * 640 / 700
    about = f"Confusion matrix of {int(np.sum(counts)):,} test images, {int(np.trace(counts)):,} on the diagonal"
    parts = [nested(svg, HEAD, high, x=14)]
    write(path, title, LARGE, parts, about)


def write_accuracy(path: Path, metrics: Sequence[Any]) -> None:
    """Write the curves of accuracy in training and validation."""
    series = series_of(metrics, "accuracy")
    svg = chart_svg("accuracy", series, "accuracy", (None, 1), best=best_epoch(metrics))
    write_chart(path, "Accuracy", svg, series)


def write_chart(path: Path, title: str, svg: str, series: Sequence[Series]) -> None:
    """Write a chart of the report with its legend as a figure."""
    parts, x = [], float(WIDTH - MARGIN)
    for one in reversed(series):
        x -= 9.4 * len(one.name)
        parts.append(words(x, 28, one.name))
        parts.append(f'<line class="line {one.kind}" x1="{x - 38}" x2="{x - 8}" y1="22" y2="22"/>')
        x -= 52
    [about] = re.findall(r'aria-label="([^"]*)"', svg)
    write(path, title, MIDDLE, [*parts, nested(svg, HEAD, 310)], about.replace("&quot;", '"'))
