"""The built-in data set: 28x28 grey images of handwritten-looking digits, drawn from pen strokes.

Nothing is downloaded: `digit_shapes.SHAPES` lists ways in which people write each digit, a few points a stroke, and a
seeded hand draws them with the unsteadiness of one. A block of 250 images at a time (N = 250 in the shapes below):

1. Choose a shape and wobble its points, neighbours along a stroke together. The pen's path is a Catmull-Rom curve
   through them (E. Catmull and R. Rom, "A class of local interpolating splines", 1974). Both steps are linear, so one
   matrix a shape leads from random numbers to the 60 points of a wobbled path.
2. Warp the path with a few long waves, then stretch, slant and turn it. What is distorted is always points, never
   pixels.
3. Place it as MNIST's digits are placed (Y. LeCun et al., "Gradient-based learning applied to document recognition",
   1998): 20 pixels in its longer side, its centre of mass in the middle, moved by whole pixels.
4. Ink it. A sum of Gaussians along the path is one matrix product per image, as a Gaussian separates into x and y;
   minus twice its logarithm is nearly the squared distance to the pen, which gives a clean anti-aliased stroke of any
   width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpucnn.data.digit_shapes import SHAPES
from gpucnn.data.exact import rounded
from gpucnn.data.parallel import cores, in_parallel
from gpucnn.errors import ParameterError

Floats = NDArray[np.float32]
Booleans = NDArray[np.bool_]

DRAWING = 2  # counts changes of this module that change a pixel
SIZE = 28  # pixels a side
BOX = 20  # pixels of the longer side of the ink, as in MNIST
FAINT = 0.25  # pixels by which the path may overshoot the box, as the ink is faint at the very ends of a stroke
MIDDLE = 14  # the centre of mass lands within half a pixel of this one, as in MNIST
POINTS = 60  # points of a pen's path, over all strokes of a shape
PIECE = 25  # images of a block whose ink is worked out together
BLOCK = 250  # images drawn together; a multiple of ten, so that every block holds each digit equally often


class Hand(NamedTuple):
    """How unsteadily the hand writes. Lengths are in heights of a digit, unless pixels are named."""

    wobble: float = 0.05  # median error of a shape's points
    wobble_spread: float = 0.4  # spread of its logarithm
    wobble_length: float = 0.4  # points err alike over this length of the stroke
    jitter: float = 0.15  # part of the wobble that each point has to itself
    warp: float = 0.06  # typical height of the waves that warp the plane
    warp_wave: float = 4.0  # and their typical wave number, radians per height
    stretch: float = 0.2  # spread of the logarithm of width over height
    slant: float = 0.15  # mean lean to the right, x per y
    slant_spread: float = 0.2
    turn: float = 0.1  # spread of the rotation, radians
    trim: float = 0.04  # at most this part of the path is missing at each end
    radius: float = 1.35  # the pen's median radius, pixels
    radius_spread: float = 0.3  # spread of its logarithm
    fullest: float = 0.5  # at most this part of the digit's box is ink
    pressure: float = 0.12  # spread of the waves of the radius along the path, as part of it
    soft: float = 1.0  # width of the ink's grey border, pixels
    soft_spread: float = 0.15  # spread of its logarithm


HAND = Hand()


class Shape(NamedTuple):
    """A way to write a digit, ready to draw: path = base + wobble * spread @ (standard normal numbers)."""

    weight: float
    base: Floats  # (POINTS, 2), x right and y down, in heights of a digit
    spread: Floats  # (POINTS, K) for K points in the table
    lifted: Booleans  # (POINTS,): the pen was lifted before this point


class Shapes(NamedTuple):
    """All shapes, a digit after another, their arrays stacked."""

    first: list[int]  # the number of each digit's first shape
    weights: list[NDArray[np.float64]]  # of each digit's shapes, 1 in all
    points: list[int]  # K of each shape; its columns of `spread` from there on are 0
    base: Floats
    spread: NDArray[np.float64]  # rounded
    lifted: Booleans


def draw_digits(
    count: int, seed: int = 0, *, threads: int | None = None, progress: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images of digits, white ink (255) on black (0), in MNIST's format.

    A seed determines an endless sequence of images, of which the first `count` are returned: a smaller count gives the
    beginning of a larger one. Every ten in the sequence are the ten digits, shuffled, so class sizes differ by at most one.
    The result depends neither on the number of threads nor on the BLAS; between processors a grey level may differ by one.

    Args:
        count: number of images, 0 or more.
        seed: 0 or more.
        threads: threads to draw with, 1 or more; None for as many as there are processors, at most eight.
        progress: show a bar while drawing, if standard error is a terminal and drawing takes longer than half a second.

    Returns:
        Images, uint8 of shape (count, 1, 28, 28), 0 to 255, and labels, int64 of shape (count,), 0 to 9.

    Raises:
        ParameterError (a ValueError): an argument is no whole number, or is too small.

    Example:
        >>> images, labels = draw_digits(1000, seed=3)
        >>> images.shape, images.dtype.name, labels.shape, labels.dtype.name
        ((1000, 1, 28, 28), 'uint8', (1000,), 'int64')
        >>> np.bincount(labels).tolist()
        [100, 100, 100, 100, 100, 100, 100, 100, 100, 100]
        >>> bool((draw_digits(10, seed=3)[0] == images[:10]).all())
        True
    """
    count = _whole("count", count, 0)
    seed = _whole("seed", seed, 0)
    workers = cores() if threads is None else _whole("threads", threads, 1)
    shapes = _shapes()
    images = np.empty((count, 1, SIZE, SIZE), np.uint8)
    labels = np.empty(count, np.int64)

    def draw(start: int) -> int:
        # The last block is drawn whole too, so that its images do not depend on how many of them are asked for.
        rng = np.random.default_rng([seed, start // BLOCK])
        wanted = min(BLOCK, count - start)
        block_labels, block_images = _draw_block(rng, shapes, HAND)
        labels[start : start + wanted] = block_labels[:wanted]
        images[start : start + wanted, 0] = block_images[:wanted]
        return wanted

    in_parallel(draw, range(0, count, BLOCK), workers, count, "Drawing digits" if progress else "")
    return images, labels


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ParameterError.expected("draw_digits", name, f"a whole number, {least} or more", repr(value))
    return int(value)


def _draw_block(rng: np.random.Generator, shapes: Shapes, hand: Hand) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Draw BLOCK images: labels (BLOCK,) and images (BLOCK, 28, 28), uint8."""
    labels = rng.permuted(np.tile(np.arange(10), (BLOCK // 10, 1)), axis=1).ravel()
    path, lifted = _write(rng, shapes, labels, hand)
    path = _lean(rng, _warp(rng, path, hand), hand)
    inked = _trimmed(rng, hand)
    radius = _radius(rng, path, inked, lifted, labels, hand)
    path = _place(path, inked, radius)
    return labels, _centre(_ink(rng, path, _lengths(path, inked, lifted), radius, hand))


def _write(rng: np.random.Generator, shapes: Shapes, labels: NDArray[np.int64], hand: Hand) -> tuple[Floats, Booleans]:
    """Choose a shape for each label and wobble it: paths (N, POINTS, 2) and where the pen was lifted (N, POINTS)."""
    number = np.empty(len(labels), np.int64)
    size = np.empty((len(labels), 1, 1), np.float32)
    noise = np.zeros((len(labels), shapes.spread.shape[2], 2), np.float32)
    for digit, (first, weights) in enumerate(zip(shapes.first, shapes.weights, strict=True)):
        rows = np.flatnonzero(labels == digit)
        chosen = rng.choice(len(weights), len(rows), p=weights)
        for way in np.unique(chosen):
            at = rows[chosen == way]
            number[at] = first + way
            size[at] = _normal(rng, len(at), 1, 1)
            noise[at, : shapes.points[first + way]] = _normal(rng, len(at), shapes.points[first + way], 2)
    size = hand.wobble * np.exp(hand.wobble_spread * size)
    path = shapes.base[number]
    for part in _pieces(len(labels)):
        path[part] += size[part] * (shapes.spread[number[part]] @ rounded(noise[part])).astype(np.float32)
    return path, shapes.lifted[number]


def _warp(rng: np.random.Generator, path: Floats, hand: Hand) -> Floats:
    """Bend the plane with two long waves in each coordinate."""
    for _ in range(2):
        waves = hand.warp_wave * _normal(rng, len(path), 2, 2)
        phase = 2 * np.pi * rng.random((len(path), 1, 2), np.float32)
        path = path + hand.warp * _normal(rng, len(path), 1, 2) * np.sin(_times(path, waves) + phase)
    return path


def _times(points: Floats, matrix: Floats) -> Floats:
    """Return points (N, P, 2) times a matrix (N, 2, 2) of their own each, in this order of sums."""
    moved: Floats = points[:, :, :1] * matrix[:, :1] + points[:, :, 1:] * matrix[:, 1:]
    return moved


def _lean(rng: np.random.Generator, path: Floats, hand: Hand) -> Floats:
    """Stretch in x, slant to the right, turn."""
    stretch = np.exp(hand.stretch * _normal(rng, len(path)))
    slant = hand.slant + hand.slant_spread * _normal(rng, len(path))
    turn = hand.turn * _normal(rng, len(path))
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[stretch * cos, stretch * sin], [-slant * cos - sin, cos - slant * sin]])
    return _times(path, matrix.transpose(2, 0, 1))


def _trimmed(rng: np.random.Generator, hand: Hand) -> Booleans:
    """Which points of the path leave ink, (BLOCK, POINTS): a little is missing at either end."""
    along = np.linspace(0, 1, POINTS, dtype=np.float32)
    start, end = hand.trim * rng.random((2, BLOCK, 1), np.float32)
    inked: Booleans = (along >= start) & (along <= 1 - end)
    return inked


def _extent(path: Floats, inked: Booleans) -> tuple[Floats, Floats]:
    """Smallest and largest coordinates of the inked points, each (N, 1, 2)."""
    along = np.ascontiguousarray(path.transpose(0, 2, 1))  # in which a smallest is found ten times as fast
    low = np.where(inked[:, None], along, np.float32(np.inf)).min(axis=2)
    return low[:, None], np.where(inked[:, None], along, np.float32(-np.inf)).max(axis=2)[:, None]


def _lengths(path: Floats, inked: Booleans, lifted: Booleans) -> Floats:
    """The length of inked path that each point stands for, (N, POINTS)."""
    step = np.hypot(*np.moveaxis(np.diff(path, axis=1), 2, 0))
    step[lifted[:, 1:]] = 0
    length = np.zeros(inked.shape, np.float32)
    length[:, :-1] += step / 2
    length[:, 1:] += step / 2
    return length * inked


def _radius(
    rng: np.random.Generator,
    path: Floats,
    inked: Booleans,
    lifted: Booleans,
    labels: NDArray[np.int64],
    hand: Hand,
) -> Floats:
    """The pen's radius along the path, pixels, (N, POINTS)."""
    low, high = _extent(path, inked)
    radius = (hand.radius * np.exp(hand.radius_spread * _normal(rng, len(path), 1))).clip(0.6, 3.2)
    scale = (BOX - 2 * radius) / (high - low).max(2)  # pixels per height
    filled = 2 * radius * scale * _lengths(path, inked, lifted).sum(1, keepdims=True)
    filled /= ((high - low) * scale[:, :, None] + 2 * radius[:, :, None]).prod(2)
    # A pen that would close the holes of the digit is too thick for it; a one has none to close.
    radius *= np.where(labels[:, None] == 1, 1, np.minimum(1, hand.fullest / filled))
    along = np.linspace(0, 1, POINTS, dtype=np.float32)
    beat, phase = rng.random((2, len(path), 1), np.float32)
    wave = np.sin((3 + 4 * beat) * along + 2 * np.pi * phase)
    pressed: Floats = radius * (1 + hand.pressure * _normal(rng, len(path), 1) * wave).clip(0.6, 1.4)
    return pressed


def _place(path: Floats, inked: Booleans, radius: Floats) -> Floats:
    """Scale to the box, in the middle of the image: the path in pixels."""
    low, high = _extent(path, inked)
    width = radius.mean(1)[:, None, None]
    scale = (BOX + 2 * FAINT - 2 * width) / (high - low).max(axis=2, keepdims=True)
    # The ink begins between two pixels, as in MNIST: half a pixel before the middle of its first one.
    first = np.rint((SIZE - (high - low) * scale) / 2 - width)
    placed: Floats = (path - low) * scale + width + first - FAINT - 0.5
    return placed


def _ink(rng: np.random.Generator, path: Floats, length: Floats, radius: Floats, hand: Hand) -> NDArray[np.uint8]:
    """Images of the paths, (N, 28, 28), uint8."""
    mean = radius.mean(1, keepdims=True)
    # The distance is compared with the mean radius below, so a point pressed harder has to seem nearer.
    weight = length / np.sqrt(2 * np.pi) * np.exp(0.5 * (radius**2 - mean**2))
    soft = hand.soft * np.exp(hand.soft_spread * _normal(rng, len(path), 1, 1))
    images = np.empty((len(path), SIZE, SIZE), np.uint8)
    for part in _pieces(len(path)):
        bell = path[part, :, :, None] - np.arange(SIZE, dtype=np.float32)
        np.exp(-0.5 * bell * bell, out=bell)
        bell[:, :, 1] *= weight[part, :, None]
        total = (rounded(bell[:, :, 1]).transpose(0, 2, 1) @ rounded(bell[:, :, 0])).astype(np.float32)
        distance = np.sqrt(np.maximum(-2 * np.log(total + np.float32(1e-20)), 0))
        ink = ((mean[part, :, None] - distance) / soft[part] + 0.5).clip(0, 1)
        images[part] = np.rint(255 * ink)
    return images


def _pieces(count: int) -> Iterator[slice]:
    """Cut a block into pieces whose temporary arrays stay in the processor's cache: a third of the time."""
    return (slice(start, start + PIECE) for start in range(0, count, PIECE))


def _centre(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Move each image by whole pixels, to bring its centre of mass to MIDDLE."""
    margin = (SIZE - BOX) // 2  # a larger shift would move the box out of the image
    mass = images.sum(axis=2, dtype=np.uint16).sum(axis=1, dtype=np.int64)
    pixel = np.arange(SIZE)
    moved = []
    for other_axis in (2, 1):
        centre = images.sum(axis=other_axis, dtype=np.uint16) @ pixel / mass
        move = np.rint(MIDDLE - centre).clip(-margin, margin).astype(np.int64)
        moved.append(margin + pixel - move[:, None])
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    rows, columns = moved
    centred: NDArray[np.uint8] = padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return centred


def _normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape, np.float32)


@cache
def _shapes() -> Shapes:
    """The table, compiled: some tens of milliseconds, once. Two first callers at once build equal tables."""
    digits = [[_compile(line, HAND) for line in SHAPES[digit].strip().splitlines()] for digit in range(10)]
    ways = [way for digit in digits for way in digit]
    points = [way.spread.shape[1] for way in ways]
    weights = [np.array([way.weight for way in digit]) for digit in digits]
    return Shapes(
        first=np.cumsum([0, *map(len, digits[:-1])]).tolist(),
        weights=[weight / weight.sum() for weight in weights],
        points=points,
        base=np.stack([way.base for way in ways]),
        spread=rounded(
            [np.pad(way.spread, ((0, 0), (0, max(points) - K))) for way, K in zip(ways, points, strict=True)]
        ),
        lifted=np.stack([way.lifted for way in ways]),
    )


def _compile(line: str, hand: Hand) -> Shape:
    """Read one line of the table, such as `2: 20,5 17,38 68,44! | 76,0 60,100`; digit_shapes.py has the legend."""
    weight, body = line.split(":")
    curves = [_curve(stroke.split(), hand) for stroke in body.split("|")]
    lengths = [_lengths_so_far(curve[:, :2]) for curve in curves]
    shares = _share([length[-1] for length in lengths])
    lifted = np.zeros(POINTS, np.bool_)
    lifted[np.cumsum(shares)[:-1]] = True
    base = np.empty((POINTS, 2), np.float32)
    spread = np.zeros((POINTS, sum(curve.shape[1] - 2 for curve in curves)), np.float32)
    row = column = 0
    for curve, length, share in zip(curves, lengths, shares, strict=True):
        at = np.linspace(0, length[-1], share)
        even = np.stack([np.interp(at, length, values) for values in curve.T], axis=1)
        base[row : row + share] = even[:, :2]
        spread[row : row + share, column : column + even.shape[1] - 2] = even[:, 2:]
        row, column = row + share, column + even.shape[1] - 2
    return Shape(float(weight), base, spread, lifted)


def _curve(points: list[str], hand: Hand) -> NDArray[np.float64]:
    """A smooth curve through K points: rows of x, y and K factors by which K normal numbers move that place."""
    control = np.array([[float(number) for number in point.rstrip("!").split(",")] for point in points]) / 100 - 0.5
    # A corner is a point taken twice, so that the curve has no direction to keep there; and so is an end.
    order = [i for i, point in enumerate(points) for _ in range(2 if point.endswith("!") else 1)]
    order = [order[0], *order, order[-1]]
    t = np.arange(16) / 16
    basis = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=1) / 2
    unit = np.eye(len(points))
    pieces = [
        basis @ unit[[before, start, end, after]]
        for before, start, end, after in zip(order, order[1:], order[2:], order[3:], strict=False)
        if start != end
    ]
    matrix = np.concatenate([*pieces, unit[-1:]])
    # Points that are near along the stroke err alike.
    along = _lengths_so_far(matrix @ control)[:: len(t)]
    covariance = np.exp(-0.5 * ((along[:, None] - along) / hand.wobble_length) ** 2) + hand.jitter**2 * unit
    return np.concatenate([matrix @ control, matrix @ np.linalg.cholesky(covariance)], axis=1)


def _lengths_so_far(path: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])


def _share(lengths: list[float]) -> list[int]:
    """Share POINTS out among strokes by their lengths, at least six each; the longest takes what is left."""
    shares = [max(6, int(POINTS * length / sum(lengths))) for length in lengths]
    shares[int(np.argmax(lengths))] += POINTS - sum(shares)
    return shares
