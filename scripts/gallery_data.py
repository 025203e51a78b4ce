"""Four data sets for the gallery, drawn by NumPy: clothes, flowers, surfaces with defects, hands that spell.

Shapes are conditions on the coordinates of points, nine to a pixel, whose mean is the anti-aliased pixel. What makes one
image unlike the next (turn, size, outline, light) comes from a generator, so a seed gives the same images again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

FINE = 3
"""Points across a pixel."""

Rng = np.random.Generator


class Drawn(NamedTuple):
    """Images (N, H, W) or (N, H, W, 3), uint8, their labels (N,), what the classes are called, and defects (N, H, W)."""

    images: Any
    labels: Any
    names: Sequence[str]
    defects: Any = None


def plane(size: int, rng: Rng, turn: float, stretch: float, move: float) -> tuple[Any, Any]:
    """Return x (to the right) and y (down), -1 to 1, of all points of an image, as seen by a hand that is not exact.

    turn: radians, stretch: of the logarithm of the size, move: all are standard deviations.
    """
    places = (np.arange(size * FINE) + 0.5) / (size * FINE) * 2 - 1
    x, y = np.meshgrid(places, places)
    angle, wide, high = rng.normal(0, turn), *np.exp(rng.normal(0, stretch, 2))
    x, y = x - rng.normal(0, move), y - rng.normal(0, move)
    return (np.cos(angle) * x + np.sin(angle) * y) / wide, (np.cos(angle) * y - np.sin(angle) * x) / high


def pixels(light: Any) -> Any:
    """Return the light 0 to 1 of points (H * FINE, W * FINE, ...) as uint8 pixels (H, W, ...)."""
    H, W = light.shape[0] // FINE, light.shape[1] // FINE
    means = light.reshape(H, FINE, W, FINE, *light.shape[2:]).mean((1, 3))
    return np.rint(255 * np.clip(means, 0, 1)).astype(np.uint8)


def inside(outline: Any, x: Any, y: Any) -> Any:
    """Return which points lie inside a closed outline (K, 2): those from which a ray crosses it an odd number of times."""
    found = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, 0), strict=True):
        if y0 != y1:
            found ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return found


def depth(x: Any, y: Any, start: Any, end: Any, radius: float) -> Any:
    """Return how deep points lie in a rod with round ends: 1 on its middle line, 0 on its surface, below outside."""
    (ax, ay), (bx, by) = start, end
    along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2 + 1e-12)
    along = np.clip(along, 0, 1)
    return 1 - np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) / radius


def clouds(shape: tuple[int, int], rng: Rng, across: float, down: float) -> Any:
    """Return smooth noise of mean 0 and deviation 1, which changes over so many points across and down."""
    rows, columns = int(shape[0] / down) + 3, int(shape[1] / across) + 3
    knots = rng.standard_normal((rows, columns))
    y = np.arange(shape[0]) / down + rng.random()
    x = np.arange(shape[1]) / across + rng.random()
    i, j = y.astype(int)[:, None], x.astype(int)[None]
    v, u = (0.5 - 0.5 * np.cos(np.pi * (part % 1)) for part in (y[:, None], x[None]))
    noise = (knots[i, j] * (1 - u) + knots[i, j + 1] * u) * (1 - v) + (
        knots[i + 1, j] * (1 - u) + knots[i + 1, j + 1] * u
    ) * v
    return (noise - noise.mean()) / noise.std()


def drawn(names: Sequence[str], labels: Any, draw: Callable[[int, Rng], Any], seed: int) -> Drawn:
    """Return one image of ``draw`` for each label."""
    rng = np.random.default_rng(seed)
    return Drawn(np.stack([draw(int(label), rng) for label in labels]), labels, names)


def evenly(count: int, classes: int) -> Any:
    """Return labels (count,) of which each class has as many."""
    return np.arange(count) % classes


# --- clothes --------------------------------------------------------------------------------------------------------

CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")

SHORT = ((0.2, -0.78), (0.52, -0.7), (0.86, -0.28), (0.66, -0.12), (0.48, -0.34))
LONG = ((0.2, -0.78), (0.5, -0.7), (0.74, -0.1), (0.8, 0.62), (0.6, 0.66), (0.48, -0.2))
HALVES = {
    "T-shirt": (*SHORT, (0.47, 0.78), (0, 0.78)),
    "shirt": (*LONG, (0.47, 0.74), (0, 0.78)),
    "pullover": (*LONG, (0.5, 0.72), (0, 0.72)),
    "coat": (
        (0.16, -0.86),
        (0.52, -0.74),
        (0.78, -0.1),
        (0.82, 0.5),
        (0.62, 0.54),
        (0.52, -0.2),
        (0.56, 0.9),
        (0, 0.9),
    ),
    "dress": ((0.16, -0.86), (0.28, -0.84), (0.3, -0.4), (0.2, -0.12), (0.5, 0.88), (0, 0.88)),
    "trousers": ((0.34, -0.88), (0.4, -0.3), (0.36, 0.9), (0.12, 0.9), (0.04, -0.2), (0, -0.2)),
    "bag": ((0.62, -0.22), (0.74, 0.66), (0, 0.66)),
}
"""Right halves of outlines, from the top; the left ones mirror them."""
SIDES = {
    "sneaker": (
        (-0.84, 0.34),
        (-0.8, -0.12),
        (-0.56, -0.16),
        (-0.1, -0.04),
        (0.3, 0.18),
        (0.78, 0.26),
        (0.86, 0.44),
        (-0.84, 0.46),
    ),
    "boot": ((-0.62, 0.72), (-0.62, -0.78), (-0.02, -0.78), (0, 0.14), (0.36, 0.28), (0.8, 0.44), (0.84, 0.74)),
    "sandal": (
        (-0.86, 0.3),
        (-0.6, 0.3),
        (-0.1, 0.42),
        (0.84, 0.4),
        (0.86, 0.54),
        (-0.4, 0.54),
        (-0.5, 0.58),
        (-0.8, 0.58),
    ),
}
"""Outlines of what is seen from the side."""


def clothes(count: int, seed: int) -> Drawn:
    """Return grey pictures of clothes, 28x28, light on black as Fashion-MNIST has them."""
    return drawn(CLOTHES, evenly(count, len(CLOTHES)), lambda label, rng: _garment(CLOTHES[label], rng), seed)


def _garment(kind: str, rng: Rng) -> Any:
    x, y = plane(28, rng, turn=0.05, stretch=0.06, move=0.03)
    if kind in HALVES:
        half = np.array(HALVES[kind]) + rng.normal(0, 0.035, (len(HALVES[kind]), 2))
        half[-1, 0] = 0
        if kind in ("shirt", "T-shirt"):  # sleeves of any length: what is in between could be either
            sleeve = np.array(LONG[2:5]) if kind == "shirt" else np.array((SHORT[2], SHORT[2], SHORT[3]))
            up = rng.beta(1.2, 2.5) * 0.8 * (kind == "shirt") - rng.beta(1.2, 4) * 0.5 * (kind == "T-shirt")
            half[2 : 2 + len(sleeve), 1] -= up * (half[2 : 2 + len(sleeve), 1] > -0.3)
        cloth = inside(half, np.abs(x), y) | inside(np.array([(-1e-9, half[0, 1]), half[0], half[-1]]), np.abs(x), y)
    else:
        x = x if rng.random() < 0.5 else -x
        cloth = inside(np.array(SIDES[kind]) + rng.normal(0, 0.03, (len(SIDES[kind]), 2)), x, y)
    light = np.full(x.shape, rng.uniform(0.45, 0.95)) + 0.06 * clouds(x.shape, rng, 20, 20)
    if rng.random() < 0.25 and kind != "sandal":  # stripes
        light = light * (1 - 0.45 * (np.sin((x if rng.random() < 0.3 else y) * rng.uniform(14, 24)) > 0.2))
    collar = inside(np.array([(0, -0.9), (rng.uniform(0.14, 0.24), -0.9), (0, rng.uniform(-0.68, -0.5))]), np.abs(x), y)
    if kind in ("T-shirt", "pullover", "shirt"):
        cloth &= ~collar
    if kind == "coat" or (kind == "shirt" and rng.random() < 0.7):
        light = np.where(np.abs(x - 0.02) < (0.05 if kind == "coat" else 0.03), light * 0.35, light)
    if kind == "bag":
        handle = depth(x, (y + 0.2) * rng.uniform(0.7, 1.1), (0, 0), (0, 0), 0.45)
        cloth |= (handle > 0) & (handle < 0.24) & (y < -0.15)
    if kind == "sandal":
        for at in rng.uniform(-0.5, 0.6, rng.integers(2, 4)):
            cloth |= depth(x, y, (at - 0.2, 0.4), (at + 0.1, rng.uniform(-0.2, 0.1)), 0.07) > 0
    if kind in ("sneaker", "boot"):
        light = np.where(y > (0.34 if kind == "sneaker" else 0.6), light * 0.55, light)
    return pixels(np.where(cloth, np.clip(light, 0.15, 1), 0))


# --- flowers --------------------------------------------------------------------------------------------------------

FLOWERS = ("daisy", "poppy", "sunflower", "tulip", "violet")
GROUND = np.array([(0.16, 0.34, 0.12), (0.3, 0.46, 0.2), (0.36, 0.27, 0.16), (0.5, 0.66, 0.8)])
"""Meadow, grass, earth and sky."""
TULIPS = np.array([(0.85, 0.12, 0.2), (0.95, 0.75, 0.2), (0.9, 0.5, 0.65), (0.5, 0.2, 0.6), (0.95, 0.93, 0.9)])


def flowers(count: int, seed: int) -> Drawn:
    """Return colour pictures of flowers, 40x40, of five kinds, on meadow, earth or sky."""
    return drawn(FLOWERS, evenly(count, len(FLOWERS)), lambda label, rng: _flower(FLOWERS[label], rng), seed)


def _flower(kind: str, rng: Rng) -> Any:
    far_away = rng.lognormal(0.25, 0.3)
    x, y = (far_away * part for part in plane(40, rng, turn=0.3, stretch=0.12, move=0.2))
    near, far = GROUND[rng.choice(4, 2, p=[0.4, 0.3, 0.15, 0.15])]
    share = 1 / (1 + np.exp(-2 * clouds(x.shape, rng, 30, 30)))[..., None]
    light = near * share + far * (1 - share)
    light = light * (1 + 0.15 * clouds(x.shape, rng, 4, 7))[..., None]
    stem = depth(x, y, (0, 0.1), (rng.normal(0, 0.15), 1.6), 0.06) > 0
    light = np.where(stem[..., None], np.array((0.25, 0.5, 0.15)) * rng.uniform(0.7, 1.2), light)
    if kind == "tulip":
        light = _tulip(light, x, y, rng)
    else:
        light = _star(kind, light, x, y, rng)
    return pixels(light * rng.uniform(0.45, 1.15) * rng.uniform(0.85, 1.1, 3) + rng.normal(0, 0.06, light.shape))


def _star(kind: str, light: Any, x: Any, y: Any, rng: Rng) -> Any:
    """Draw a flower from above: petals around a centre."""
    petals, broad, reach, eye, colour, middle = {
        "daisy": (rng.integers(9, 15), 0.7, 0.72, 0.22, (0.95, 0.95, 0.9 - 0.35 * rng.random()), (0.95, 0.75, 0.1)),
        "sunflower": (
            rng.integers(12, 19),
            0.6,
            0.85,
            0.38,
            (0.98, 0.72 - 0.15 * rng.random(), 0.1),
            (0.3, 0.17, 0.06),
        ),
        "poppy": (rng.integers(4, 6), 0.2, 0.75, 0.17, (0.85, 0.1 + 0.25 * rng.random(), 0.08), (0.1, 0.08, 0.1)),
        "violet": (5, 0.45, 0.68, 0.12, (0.42, 0.25 + 0.3 * rng.random(), 0.85), (0.95, 0.8, 0.2)),
    }[kind]
    r, angle = np.hypot(x, y * rng.uniform(1, 1.4)), np.arctan2(y, x) + rng.uniform(0, 6.3)
    wave = np.abs(np.cos(petals * angle / 2))
    edge = reach * rng.uniform(0.7, 1.1) * ((1 - broad) + broad * wave**0.7)
    shade = 0.55 + 0.45 * wave[..., None] ** 0.5 * (0.7 + 0.3 * np.minimum(r / reach, 1)[..., None])
    light = np.where((r < edge)[..., None], np.array(colour) * shade, light)
    eye *= rng.uniform(0.75, 1.25)
    grain = (1 + 0.2 * clouds(x.shape, rng, 3, 3))[..., None]
    return np.where((r < eye)[..., None], np.array(middle) * grain, light)


def _tulip(light: Any, x: Any, y: Any, rng: Rng) -> Any:
    """Draw a cup of three petals on two leaves."""
    for side in (-1, 1):
        leaf = depth(x, y, (0, 1.1), (side * rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.5)), 0.13) > 0
        light = np.where(leaf[..., None], np.array((0.2, 0.5, 0.2)) * rng.uniform(0.8, 1.1), light)
    colour = TULIPS[rng.integers(len(TULIPS))] * rng.uniform(0.85, 1.05)
    for lean, dark in ((-0.28, 0.8), (0.28, 0.85), (0, 1.0)):
        inner = depth(x * rng.uniform(1.3, 1.5), y, (lean * 0.6, 0.1), (lean * 1.4, -0.42), 0.34)
        shade = dark * (0.65 + 0.35 * np.clip(inner, 0, 1)[..., None] ** 0.5)
        light = np.where((inner > 0)[..., None], colour * shade, light)
    return light


# --- surfaces -------------------------------------------------------------------------------------------------------

SURFACES = ("good", "hole", "scratch", "stain")


def surfaces(count: int, seed: int) -> Drawn:
    """Return grey pictures of brushed metal, 48x48: two thirds are good, a ninth each has a hole, a scratch or a stain."""
    rng = np.random.default_rng(seed)
    labels = np.array([0, 0, 1, 0, 0, 2, 0, 0, 3])[np.arange(count) % 9]
    images, defects = zip(*(_surface(SURFACES[label], rng) for label in labels), strict=True)
    return Drawn(np.stack(images), labels, SURFACES, np.stack(defects))


def _surface(kind: str, rng: Rng) -> tuple[Any, Any]:
    x, y = plane(48, rng, turn=0, stretch=0, move=0)
    brushed = 0.06 * clouds(x.shape, rng, 90, 2) + 0.04 * clouds(x.shape, rng, 40, 5)
    lit = 0.12 * (x * np.cos(turn := rng.uniform(0, 6.3)) + y * np.sin(turn))
    light = rng.uniform(0.4, 0.7) + brushed + lit + 0.03 * rng.standard_normal(x.shape)
    at = rng.uniform(-0.65, 0.65, 2)
    strength = rng.choice((-1, 1)) * rng.uniform(0.1, 0.4)
    shown = np.zeros(x.shape)
    if kind == "hole":
        inner = depth(x, y * rng.uniform(0.8, 1.25), at, at, rng.uniform(0.07, 0.16))
        shown = -np.clip(inner * 4, 0, 1) * rng.uniform(0.25, 0.5) + 0.25 * ((inner > -0.35) & (inner < 0))
    if kind == "scratch":
        angle, bend = rng.uniform(0, 6.3), rng.normal(0, 0.25)
        u, v = x - at[0], y - at[1]
        u, v = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
        long = rng.uniform(0.25, 0.7)
        shown = strength * (depth(u, v - bend * u**2, (-long, 0), (long, 0), rng.uniform(0.02, 0.04)) > 0)
    if kind == "stain":
        r = np.hypot(x - at[0], (y - at[1]) * rng.uniform(0.7, 1.4)) + 0.05 * clouds(x.shape, rng, 25, 25)
        shown = 0.6 * strength * np.clip(3 - r / rng.uniform(0.08, 0.13), 0, 1)
    defect = pixels((np.abs(shown) > 0.02).astype(float)) > 127
    return pixels(light + shown), defect


# --- hands ----------------------------------------------------------------------------------------------------------

HANDS = {
    "B": (0, 1, 1, 1, 1), "D": (0, 1, 0, 0, 0), "I": (0, 0, 0, 0, 1), "L": (1, 1, 0, 0, 0), "S": (0, 0, 0, 0, 0),
    "U": (0, 1, 1, 0, 0), "V": (0, 1, 1, 0, 0), "W": (0, 1, 1, 1, 0), "Y": (1, 0, 0, 0, 1), "5": (1, 1, 1, 1, 1),
}  # fmt: skip
"""Which fingers are up, from the thumb on, for letters of the American finger alphabet and a five."""
SPREAD = {"V": 0.55, "W": 0.5, "5": 0.85}
"""How far the fingers stand apart, radians from first to last; elsewhere they touch."""
REACH = (0.55, 0.72, 0.8, 0.74, 0.56)
"""How long the fingers are."""


def hands(count: int, seed: int) -> Drawn:
    """Return grey pictures of hands that show a letter, 32x32, left and right ones, on light and dark."""
    names = tuple(HANDS)
    return drawn(names, evenly(count, len(names)), lambda label, rng: _hand(names[label], rng), seed)


def _hand(letter: str, rng: Rng) -> Any:
    x, y = plane(32, rng, turn=0.15, stretch=0.08, move=0.06)
    x, y = (x if rng.random() < 0.5 else -x) * 1.15, (y - 0.1) * 1.15
    skin = rng.uniform(0.35, 0.9)
    ground = skin - 0.3 - 0.3 * rng.random() if skin > 0.6 else skin + 0.2 + 0.3 * rng.random()
    light = np.clip(ground, 0.04, 0.96) + 0.05 * clouds(x.shape, rng, 24, 24) + rng.normal(0, 0.1) * y
    thumb, *fingers = HANDS[letter]
    light = _rod(light, x, y, (0.0, 1.5), (0.0, 0.7), 0.27, skin)  # the wrist
    light = _rod(light, x, y, (-0.08, 0.48), (0.1, 0.4), 0.42, skin)
    spread = SPREAD.get(letter, 0.08) * rng.uniform(0.8, 1.2)
    up = [i for i in range(4) if fingers[i]]
    for i, is_up in enumerate(fingers):
        base = np.array((-0.33 + 0.22 * i, 0.14 + 0.03 * abs(i - 1.2)))
        if is_up:
            place = (up.index(i) / max(len(up) - 1, 1) - 0.5) if len(up) > 1 else rng.normal(0, 0.15)
            angle = place * spread + rng.normal(0, 0.04)
            length = REACH[1 + i] * rng.uniform(0.9, 1.1)
            tip = base + length * np.array((np.sin(angle), -np.cos(angle)))
            light = _rod(light, x, y, base, tip, 0.12, skin)
        else:
            light = _rod(light, x, y, base + np.array((0, 0.02)), base + np.array((0, 0.2)), 0.125, skin * 0.93)
    if thumb:
        angle = -1.05 + rng.normal(0, 0.12)
        base = np.array((-0.36, 0.55))
        tip = base + REACH[0] * rng.uniform(0.9, 1.1) * np.array((np.sin(angle), -np.cos(angle)))
    else:
        base, tip = np.array((-0.4, 0.6)), np.array((rng.uniform(-0.05, 0.12), 0.38 + rng.normal(0, 0.03)))
    return pixels(_rod(light, x, y, base, tip, 0.125, skin) + 0.02 * rng.standard_normal(x.shape))


def _rod(light: Any, x: Any, y: Any, start: Any, end: Any, radius: float, skin: float) -> Any:
    """Draw a finger: round, so that it is darker at its edges."""
    inner = depth(x, y, start, end, radius)
    return np.where(inner > 0, skin * (0.5 + 0.5 * np.sqrt(np.clip(1.6 * inner, 0, 1))), light)
