"""Digits as a person draws them with a mouse: each a few strokes, drawn by Pillow, of any size, place and polarity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Point = tuple[float, float]


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> list[Point]:
    """Return points of an ellipse about (x, y), angles in degrees, clockwise on the screen from the right."""
    angles = np.deg2rad(np.linspace(start, stop, 40))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


# In a box of width 0.6 and height 1, x to the right and y down.
DIGITS: dict[int, list[list[Point]]] = {
    0: [arc(0.3, 0.5, 0.3, 0.5, -90, 270)],
    1: [[(0.3, 0.0), (0.3, 1.0)]],
    2: [[*arc(0.3, 0.28, 0.28, 0.28, -160, 40), (0.02, 1.0), (0.6, 1.0)]],
    3: [[*arc(0.27, 0.25, 0.28, 0.25, -150, 90), *arc(0.27, 0.75, 0.32, 0.25, -90, 150)]],
    4: [[(0.42, 0.0), (0.0, 0.66), (0.6, 0.66)], [(0.45, 0.3), (0.45, 1.0)]],
    5: [[(0.55, 0.0), (0.1, 0.0), (0.06, 0.44), *arc(0.25, 0.69, 0.33, 0.31, -115, 150)]],
    6: [[(0.45, 0.0), (0.2, 0.25), (0.05, 0.55), *arc(0.29, 0.72, 0.27, 0.28, 180, -180)]],
    7: [[(0.0, 0.0), (0.6, 0.0), (0.22, 1.0)]],
    8: [[*arc(0.3, 0.25, 0.24, 0.25, 90, 450), *arc(0.3, 0.75, 0.3, 0.25, -90, 270)]],
    9: [[*arc(0.3, 0.28, 0.27, 0.28, 0, -360), (0.55, 0.6), (0.48, 1.0)]],
}


def draw(
    digit: int,
    side: int,
    light_on_dark: bool,
    rng: np.random.Generator,
    smooth: bool = True,
    plain: bool = False,
    pen: float | None = None,
) -> Any:
    """Return a Pillow image of ``side`` pixels with a digit: off the centre, a little turned, wobbly, thick or thin.

    smooth: with anti-aliasing; plain: in the middle and upright, without wobble; pen: its width as a share of the height.
    """
    from PIL import Image, ImageDraw

    zoom = 4 if smooth else 1
    height = side * (0.6 if plain else rng.uniform(0.35, 0.75))
    thick = height * (pen or (0.1 if plain else rng.uniform(0.06, 0.13)))
    angle = 0.0 if plain else math.radians(rng.uniform(-7, 7))
    room = (side - height * 1.1 - thick) / 2
    middle = side / 2 + (np.zeros(2) if plain else rng.uniform(-room, room, 2))
    stretch = 1.0 if plain else rng.uniform(0.85, 1.15)
    paper, ink = (
        (rng.integers(0, 40), rng.integers(200, 256))
        if light_on_dark
        else (rng.integers(215, 256), rng.integers(0, 50))
    )
    page = Image.new("L", (side * zoom, side * zoom), int(paper))
    tool = ImageDraw.Draw(page)
    radius = thick * zoom / 2
    for stroke in DIGITS[digit]:
        wobble = np.zeros((len(stroke), 2)) if plain else rng.normal(0, 0.006, (len(stroke), 2))
        points = []
        for (x, y), (dx, dy) in zip(stroke, wobble, strict=True):
            u, v = (x - 0.3 + dx) * height * stretch, (y - 0.5 + dy) * height
            turned = u * math.cos(angle) - v * math.sin(angle), u * math.sin(angle) + v * math.cos(angle)
            points.append(((middle[0] + turned[0]) * zoom, (middle[1] + turned[1]) * zoom))
        tool.line(points, int(ink), max(round(thick * zoom), 1), joint="curve")
        for x, y in points:
            tool.ellipse((x - radius, y - radius, x + radius, y + radius), int(ink))
    return page.resize((side, side), Image.Resampling.LANCZOS) if smooth else page
