"""Augmentation: each time a training image is shown it is moved, bent, covered or roughened a little, at random."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gpucnn.data.exact import rounded
from gpucnn.data.photographs import box_places, draw_boxes, grey, padded_crop, vary_colours
from gpucnn.errors import UsageError, did_you_mean

Pixels = NDArray[Any]
Floats = NDArray[np.float32]

SMOOTH = 4 / 28
"""Width of the Gaussian that smooths elastic displacements, as a share of the image: 4 pixels of MNIST's 28."""

LIMITS: dict[str, float] = {"rotate": 180, "scale": 0.9, "noise": 1, "elastic": 100, "shift": 2**15, "cutout": 2**15}
LIMITS |= {"crop": 2**15, "resized_crop": 1, "colour": 1, "grey": 1}


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image of a batch: images (B, C, H, W), uint8 or floating -> the same shape and dtype.

    shift: up to so many whole pixels each way; rotate: up to so many degrees; scale: 0.1 is 0.9 to 1.1 times the size;
    flip: half of the images left to right; elastic: standard deviation, in pixels, of a smooth random displacement
    (Simard, Steinkraus & Platt 2003, "Best practices for convolutional neural networks"); cutout: side in pixels of a
    square, anywhere, that takes the image's mean colour (DeVries & Taylor 2017, "Improved regularization of
    convolutional neural networks with cutout"); noise: standard deviation, as a share of the pixels' range (of 1, for
    floats). Of photographs: crop: a window of the image's size, anywhere in the image with so many black pixels around it;
    resized_crop: the smallest share of the area of a box, anywhere, that is scaled to the image's size (Szegedy et al.
    2015); colour: brightness, contrast and saturation times 1 - colour to 1 + colour; grey: the share of images without
    their colours. What comes in from outside the image continues its border. UsageError for a strength out of its range.

    >>> images = np.arange(18, dtype=np.uint8).reshape(2, 1, 3, 3)
    >>> Augmentation(flip=True)(images, np.random.default_rng(6))[:, 0, 0].tolist()
    [[0, 1, 2], [11, 10, 9]]
    """

    shift: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False
    elastic: float = 0.0
    cutout: int = 0
    noise: float = 0.0
    crop: int = 0
    resized_crop: float = 0.0
    colour: float = 0.0
    grey: float = 0.0

    def __post_init__(self) -> None:
        for key, most in LIMITS.items():
            value, whole = getattr(self, key), key in ("shift", "cutout", "crop")
            if not 0 <= value <= most or (whole and value != int(value)):  # also refuses NaN
                kind = "a whole number" if whole else "a number"
                raise UsageError.expected("augment", key, f"{kind} from 0 to {most:g}", f"{value!s:.20}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a text such as "shift=2,rotate=10,flip" describes; UsageError for an unknown name or no number.

        >>> Augmentation.parse("shift=2,flip") == Augmentation(shift=2, flip=True)
        True
        """
        known: dict[str, type] = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for item in text.split(","):
            name, equals, value = (part.strip() for part in item.partition("="))
            if name not in known or name in values or (equals == "") != (known[name] is bool):
                words = ", ".join(key if kind is bool else f"{key}=NUMBER" for key, kind in known.items())
                remedy = "" if name in known else did_you_mean(name, known)
                raise UsageError.expected("augment", "list", f"some of {words}, each once", repr(item), remedy)
            try:
                values[name] = True if known[name] is bool else known[name](value)
            except ValueError:
                kind = "a whole number" if known[name] is int else "a number"
                raise UsageError.expected("augment", name, kind, repr(value)) from None
        return cls(**values)

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        """Return images (B, C, H, W) changed by random numbers from ``rng``; the same state gives the same bits.

        Whatever the BLAS and its threads: the one matrix product, of the elastic field, is exact.
        """
        B, (H, W) = len(images), images.shape[2:]
        if self.resized_crop:
            images = _interpolate(images, *box_places(draw_boxes(rng, B, self.resized_crop), H, W))
        if self.crop:
            images = padded_crop(images, rng.integers(0, 2 * self.crop, (B, 2), endpoint=True), self.crop)
        if self.rotate or self.scale or self.elastic:
            angles = np.deg2rad(rng.uniform(-self.rotate, self.rotate, B))
            factors = rng.uniform(1 - self.scale, 1 + self.scale, B)
            shifts, flips = self._draw_shifts(rng, B), self._draw_flips(rng, B)
            field = np.float32(self.elastic) * elastic_field(rng, B, H, W) if self.elastic else None
            images = warp(images, angles, factors, shifts, flips, field)
        elif self.shift or self.flip:
            images = move(images, self._draw_shifts(rng, B), self._draw_flips(rng, B))
        if self.colour:
            factors = rng.uniform(1 - self.colour, 1 + self.colour, (B, 3))
            images = _rounded(vary_colours(images, factors), images.dtype)
        if self.grey:
            without = (rng.random(B) < self.grey)[:, None, None, None]
            images = np.where(without, _rounded(grey(images.astype(np.float32)), images.dtype), images)
        if self.cutout:
            images = cut_out(images, rng.integers(0, (H, W), (B, 2)), self.cutout)
        if self.noise:
            images = add_noise(images, rng.standard_normal(images.shape, np.float32) * np.float32(self.noise))
        return images

    def _draw_shifts(self, rng: np.random.Generator, B: int) -> NDArray[np.int64]:
        return rng.integers(-self.shift, self.shift, (B, 2), endpoint=True)

    def _draw_flips(self, rng: np.random.Generator, B: int) -> NDArray[np.bool_]:
        return rng.random(B) < (0.5 if self.flip else 0.0)


def move(images: Pixels, shifts: NDArray[np.int64], flips: NDArray[np.bool_]) -> Pixels:
    """Return images (B, C, H, W) flipped left to right where ``flips`` (B,), then moved by ``shifts`` (B, 2) pixels.

    A shift is (down, right); the border is continued.

    >>> image = np.array([[[[1, 2, 3]]]], np.uint8)
    >>> move(image, np.array([[0, 1]]), np.array([False])).tolist()
    [[[[1, 1, 2]]]]
    """
    B, C, H, W = images.shape
    rows = np.clip(np.arange(H) - shifts[:, :1], 0, H - 1)
    columns = np.clip(np.arange(W) - shifts[:, 1:], 0, W - 1)
    columns = np.where(flips[:, None], W - 1 - columns, columns)
    pixels, places = _flat(images, rows[:, :, None] * W + columns[:, None, :])
    moved: Pixels = pixels[places]
    return moved


def warp(
    images: Pixels,
    angles: NDArray[np.float64],
    factors: NDArray[np.float64],
    shifts: NDArray[np.int64],
    flips: NDArray[np.bool_],
    field: Floats | None = None,
) -> Pixels:
    """Return images (B, C, H, W) flipped, scaled by ``factors``, turned by ``angles`` (radians), then moved, all at once.

    angles, factors, flips: (B,); shifts: (B, 2) pixels down and right; field: (2, B, H, W) displacements in pixels, added
    to where each pixel is read. About the centre, anticlockwise, read by bilinear interpolation; the border is continued.

    >>> image = np.array([[[[1, 2], [3, 4]]]], np.uint8)
    >>> warp(image, np.array([np.pi / 2]), np.ones(1), np.zeros((1, 2), int), np.array([False])).tolist()
    [[[[2, 4], [1, 3]]]]
    """
    B, C, H, W = images.shape
    cos, sin = (np.cos(angles) / factors)[:, None, None], (np.sin(angles) / factors)[:, None, None]
    mirror = np.where(flips, -1.0, 1.0)[:, None, None]
    i = (np.arange(H) - (H - 1) / 2 - shifts[:, :1])[:, :, None]
    j = (np.arange(W) - (W - 1) / 2 - shifts[:, 1:])[:, None, :]
    # The two small parts are added in float64 and rounded once, so that whole pixels stay whole.
    y = (cos * i + (H - 1) / 2).astype(np.float32) + (sin * j).astype(np.float32)
    x = (mirror * (cos * j) + (W - 1) / 2).astype(np.float32) - (mirror * (sin * i)).astype(np.float32)
    if field is not None:
        y += field[0]
        x += field[1]
    return _interpolate(images, y, x)


def elastic_field(rng: np.random.Generator, B: int, H: int, W: int) -> Floats:
    """Return smooth random displacements (2, B, H, W), each of mean 0 and standard deviation 1.

    Independent uniform numbers, smoothed along both axes by a Gaussian whose rows have unit norm.

    >>> elastic_field(np.random.default_rng(0), 3, 28, 20).shape
    (2, 3, 28, 20)
    """
    raw = rng.random((2, B, H, W), np.float32) - np.float32(0.5)
    smooth = rounded(_gaussian(H)) @ rounded(rounded(raw) @ rounded(_gaussian(W).T))
    return (smooth * math.sqrt(12)).astype(np.float32)


def _gaussian(size: int) -> NDArray[np.float64]:
    """Return the (size, size) matrix that smooths and keeps the variance of independent numbers."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / max(SMOOTH * size, 1e-9)
    weights = np.exp(-(distance**2) / 2)
    unit: NDArray[np.float64] = weights / np.sqrt((weights**2).sum(1, keepdims=True))
    return unit


def cut_out(images: Pixels, centres: NDArray[np.int64], side: int) -> Pixels:
    """Return images (B, C, H, W) with a square about each of ``centres`` (B, 2) in the image's mean colour.

    The square may reach over the border; what lies outside is lost.

    >>> cut_out(np.array([[[[9, 0, 0]]]], np.uint8), np.array([[0, 0]]), 1).tolist()
    [[[[3, 0, 0]]]]
    """
    H, W = images.shape[2:]
    first = centres - side // 2
    rows, columns = np.arange(H) - first[:, :1], np.arange(W) - first[:, 1:]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    mean = images.mean((2, 3), dtype=np.float32, keepdims=True)
    covered: Pixels = np.where(inside[:, None], _rounded(mean, images.dtype), images)
    return covered


def add_noise(images: Pixels, noise: Floats) -> Pixels:
    """Return images plus noise of the same shape, a share of the pixels' range; uint8 stays within 0 to 255.

    >>> add_noise(np.array([100, 250], np.uint8), np.array([0.1, 0.1], np.float32)).tolist()
    [126, 255]
    """
    if images.dtype != np.uint8:
        noise = noise.astype(images.dtype)
        noise += images
        return noise
    return _rounded(np.clip(images + noise * np.float32(255), 0, 255), images.dtype)


def _interpolate(images: Pixels, y: Floats, x: Floats) -> Pixels:
    """Return images (B, C, H, W) read at rows ``y`` and columns ``x`` (B, H, W) between four pixels."""
    H, W = images.shape[2:]
    np.clip(y, 0, H - 1, out=y)
    np.clip(x, 0, W - 1, out=x)
    row, column = np.minimum(y.astype(np.intp), max(H - 2, 0)), np.minimum(x.astype(np.intp), max(W - 2, 0))
    down, right = W * (H > 1), int(W > 1)
    y = (y - row.astype(np.float32))[:, None]
    x = (x - column.astype(np.float32))[:, None]
    shades = images.astype(np.float32) if images.dtype == np.uint8 else images
    pixels, places = _flat(shades, row * W + column)
    above, below = pixels[places], pixels[down:][places]
    above = (1 - x) * above + x * pixels[right:][places]
    below = (1 - x) * below + x * pixels[down + right :][places]
    return _rounded((1 - y) * above + y * below, images.dtype)  # in this form whole pixels stay as they are


def _flat(images: Pixels, places: NDArray[np.intp]) -> tuple[Pixels, NDArray[np.intp]]:
    """Return the pixels of images (B, C, H, W) in a row, and where in it each channel's ``places`` (B, H, W) are."""
    B, C, H, W = images.shape
    planes = np.arange(B * C).reshape(B, C, 1, 1) * (H * W)
    return np.ascontiguousarray(images).reshape(-1), planes + places[:, None]


def _rounded(values: Floats, dtype: np.dtype[Any]) -> Pixels:
    return np.rint(values).astype(dtype) if dtype == np.uint8 else values.astype(dtype)
