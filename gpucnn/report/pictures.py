"""The report's pictures as PNG files, for papers and slides: its own SVG, rasterised (needs the ``png`` extra)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import numpy as np

from gpucnn.errors import GpucnnError, how_to_add
from gpucnn.formats import cut, percent
from gpucnn.report.charts import Series, chart_svg, matrix_chart
from gpucnn.report.curves import best_epoch, epochs_of, rates_of, series_of, steps_of
from gpucnn.report.html import text
from gpucnn.report.image_report import MOST_ANSWERS, Look, heats, map_pixels
from gpucnn.report.images import SIGNED, coloured, data_uri, filter_pixels, image_pixels, sheet, shown_filters
from gpucnn.report.outcome import Outcome
from gpucnn.report.run_report import MOST_FILTERS, Run

ZOOM = 2
"""Pixels for each unit of the drawing."""

CELL, LINE, MARGIN = 320, 20, 16
"""Units: the width of a picture in a row of several, the height of a line of text, the space around."""

FILE_STYLE = """
.hit { fill: none; }
svg text { font-family: sans-serif; }
.ink { fill: #1b2126; }
"""
"""What only files need: no places to point at, a font, and the colour of words that matter."""


def plots(run: Run) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, PNG bytes) of curves, filters, confusion and mistakes, as far as the run has the data.

    GpucnnError without the ``png`` extra.

    >>> from gpucnn.inspect import Run
    >>> for name, content in plots(Run("lenet", "done", filters_after=np.ones((6, 1, 5, 5)))):  # doctest: +SKIP
    ...     Path(name).write_bytes(content)
    """
    check_drawer()
    if epochs_of(run.metrics):
        yield "curves.png", png_of(curves_svg(run.metrics))
    if run.filters_after is not None:
        yield "filters.png", png_of(_filters_svg(run.filters_before, run.filters_after))
    if run.outcome is not None:
        yield "confusion.png", png_of(matrix_chart(run.outcome.confusion, run.outcome.class_names, numbers=True))
        yield "mistakes.png", png_of(_mistakes_svg(run.outcome))


def look_plot(found: Look, title: str) -> bytes:
    """Return an explained prediction as a PNG file; GpucnnError without the ``png`` extra."""
    check_drawer()
    return png_of(look_svg(found, title))


def check_drawer() -> None:
    """GpucnnError, with the command that installs it, if the package that draws PNG files is missing."""
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise GpucnnError(f"PNG files need resvg_py. Install it: {how_to_add('png')}.") from None


def png_of(svg: str) -> bytes:
    """Return an SVG of the report, in the colours of the light page, as the bytes of a PNG file."""
    import resvg_py

    drawn = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return bytes(resvg_py.svg_to_bytes(svg_string=drawn, zoom=ZOOM, background="#ffffff", style_sheet=chart_style()))


def chart_style() -> str:
    """Return the style of the page's charts with its light colours written out: a file has no page to take them from.

    >>> "stroke: #2a6fb6" in chart_style(), "var(" in chart_style()
    (True, False)
    """
    colours, rules = chart_rules()
    light = dict(re.findall(r"--([a-z]+): ([^;]+);", colours[: colours.index("@media")]))
    rules = re.sub(r"rgb\(var\(--(\w+)\)( / [^)]*)?\)", lambda m: f"rgb({light[m[1]].replace(' ', ', ')})", rules)
    return re.sub(r"var\(--(\w+)\)", lambda m: light[m[1]], rules) + FILE_STYLE


def chart_rules() -> tuple[str, str]:
    """Return the page's colours, light and dark, and the rules of its charts that hold wherever they are drawn.

    >>> "--paper" in chart_rules()[0], ".column" in chart_rules()[1]
    (True, True)
    """
    style = resources.files("gpucnn.report").joinpath("style.css").read_text(encoding="utf-8")
    rules = style[style.index("/* Charts */") : style.index("@media print")]
    rules = re.sub(r"@media[^{]*\{([^{}]*\{[^{}]*\})*\s*\}", "", rules)
    rules = "\n".join(line for line in rules.splitlines() if ".hit" not in line)
    return style[: style.index("/* Text")], rules


def curves_svg(metrics: Sequence[Any]) -> str:
    """Return loss, accuracy and learning rate side by side as SVG."""
    steps, best = steps_of(metrics), best_epoch(metrics)
    drawn: list[tuple[str, list[Series], str]] = []
    ends: dict[str, tuple[float | None, float | None]] = {"loss": (0, None), "accuracy": (None, 1)}
    for what, of_axis in ends.items():
        if series := series_of(metrics, what):
            drawn.append((what.capitalize(), series, chart_svg(what, series, what, of_axis, steps, best)))
    if rates := rates_of(metrics):
        drawn.append(("Learning rate", rates, chart_svg("learning rate", rates, "learning rate", (0, None), steps)))
    wide, high, top = 480, 300, 2 * LINE + MARGIN
    parts = []
    for i, (title, series, svg) in enumerate(drawn):
        left = MARGIN + i * (wide + MARGIN)
        parts.append(_words(left, MARGIN + 4, title, size=16))
        at = left
        for one in series:
            middle = MARGIN + LINE + 2
            parts.append(f'<line class="line {one.kind}" x1="{at}" x2="{at + 28}" y1="{middle}" y2="{middle}"/>')
            parts.append(_words(at + 34, middle + 5, one.name))
            at += 50 + 8 * len(one.name)
        parts.append(_nested(svg, left, top, wide, high))
    return _svg(MARGIN + len(drawn) * (wide + MARGIN), top + high, parts)


def look_svg(found: Look, title: str) -> str:
    """Return an explained prediction as SVG: the image and its saliency, the probabilities, feature maps and edges."""
    label = cut(found.class_names[found.target], 16)
    tiles = {"the image": image_pixels(found.image)} | {f"{k} for {label}": v for k, v in heats(found).items()}
    tiles |= {f"{which} edges": coloured((values + 1) / 2, SIGNED) for which, values in found.edges.items()}
    tiles |= {f"maps of {found.titles.get(key, key)}": sheet(map_pixels(maps)[0]) for key, maps in found.maps.items()}
    parts, wide, high = _tiles(tiles, min(len(tiles), 5), MARGIN + LINE)
    parts.append(_words(MARGIN, MARGIN + 4, title, size=16))
    order = np.argsort(-found.probabilities, kind="stable")[:MOST_ANSWERS]
    for row, i in enumerate(order):
        y = high + row * LINE
        parts.append(_words(MARGIN, y + 14, cut(found.class_names[i], 20)))
        length = 300 * float(found.probabilities[i])
        parts.append(f'<rect class="column" x="{MARGIN + 180}" y="{y + 3}" width="{length:.1f}" height="{LINE - 6}"/>')
        parts.append(_words(MARGIN + 186 + length, y + 14, percent(found.probabilities[i], 1)))
    return _svg(max(wide, MARGIN + 600), high + len(order) * LINE + MARGIN, parts)


def _filters_svg(before: Any, after: Any) -> str:
    stacks = {"after training": after}
    if before is not None and before.shape == after.shape:
        stacks = {"before training": before, **stacks}
    largest = max(float(np.abs(shown_filters(stack)).max()) for stack in stacks.values())
    tiles = {title: sheet(filter_pixels(stack[:MOST_FILTERS], largest)) for title, stack in stacks.items()}
    parts, wide, high = _tiles(tiles, len(tiles), 0)
    return _svg(wide, high, parts)


def _mistakes_svg(outcome: Outcome) -> str:
    if not outcome.mistakes:
        return _svg(400, 60, [_words(MARGIN, 35, "Every test image is classified correctly.")])
    side, step = 110, 130
    across = min(6, len(outcome.mistakes))
    parts = []
    for i, mistake in enumerate(outcome.mistakes):
        left, top = MARGIN + i % across * step, MARGIN + i // across * (side + 3 * LINE)
        label, answer = (cut(outcome.class_names[k], 8) for k in (mistake.label, mistake.answer))
        parts.append(_words(left, top + 12, f"{label} as {answer}", size=12))
        parts.append(_words(left, top + 12 + LINE - 4, percent(mistake.confidence, 1), size=12))
        parts.append(_image(image_pixels(mistake.image), left, top + 2 * LINE - 4, side, side))
    rows = -(-len(outcome.mistakes) // across)
    return _svg(MARGIN + across * step, MARGIN + rows * (side + 3 * LINE), parts)


def _tiles(tiles: dict[str, Any], across: int, top: int) -> tuple[list[str], int, int]:
    """Return titled images in rows, and the width and height that they take from ``top`` on."""
    parts = []
    for i, (title, pixels) in enumerate(tiles.items()):
        left, row = MARGIN + i % across * (CELL + MARGIN), top + MARGIN + i // across * (CELL + LINE + MARGIN)
        parts.append(_words(left, row + 12, title))
        parts.append(_image(pixels, left, row + LINE, CELL, CELL))
    rows = -(-len(tiles) // across)
    return parts, MARGIN + across * (CELL + MARGIN), top + MARGIN + rows * (CELL + LINE + MARGIN)


def _svg(wide: float, high: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {wide:.0f} {high:.0f}" width="{wide:.0f}" height="{high:.0f}">{"".join(parts)}</svg>'


def _nested(svg: str, x: float, y: float, wide: float, high: float) -> str:
    return svg.replace("<svg ", f'<svg x="{x}" y="{y}" width="{wide}" height="{high}" ', 1)


def _words(x: float, y: float, words: str, size: int = 14) -> str:
    return f'<text class="ink" x="{x:.1f}" y="{y:.1f}" style="font-size: {size}px">{text(words)}</text>'


def _image(pixels: Any, x: float, y: float, wide: float, high: float) -> str:
    place = f'x="{x}" y="{y}" width="{wide}" height="{high}" preserveAspectRatio="xMidYMin"'
    return f'<image {place} style="image-rendering: pixelated" href="{data_uri(pixels)}"/>'
