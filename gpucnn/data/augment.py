"""Augmentation: each time a training image is used it is moved, distorted, covered or made noisy a little, at random."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gpucnn.data.draws import Draws
from gpucnn.data.exact import rounded
from gpucnn.data.photographs import blur, box_places, boxes, grey, padded_crop, turn_hues, vary_colours
from gpucnn.errors import DataError, UsageError, did_you_mean

Pixels = NDArray[Any]
Floats = NDArray[np.float32]

SMOOTH = 4 / 28
"""Width of the Gaussian that smooths elastic displacements, as a share of the image: 4 pixels of MNIST's 28."""

LIMITS: dict[str, float] = {"rotate": 180, "scale": 0.9, "noise": 1, "elastic": 100, "shift": 2**15, "cutout": 2**15}
LIMITS |= {"crop": 2**15, "resized_crop": 1, "colour": 1, "hue": 0.5, "grey": 1, "blur": 100}

WORDS = {"shift": (0, 2), "flip": (2, 1), "rotate": (3, 1), "scale": (4, 1), "cutout": (5, 2), "grey": (7, 1)}
WORDS |= {"crop": (8, 2), "blur": (10, 1), "colour": (12, 3), "hue": (15, 1), "resized_crop": (16, 4)}
"""Which of an image's random words each kind takes (first, count): turning one on or off changes no other."""
STREAMS = {"elastic": 0, "noise": 1}


@dataclass(frozen=True)
class Augmentation:
    """Random changes of images (B, C, H, W), uint8 or floating -> the same shape and dtype.

    shift: the most whole pixels each way; rotate: the most degrees; scale: 0.1 is 0.9 to 1.1 times the size;
    flip: half of the images left to right; elastic: standard deviation, in pixels, of a smooth random displacement
    (Simard, Steinkraus & Platt 2003, "Best practices for convolutional neural networks"); cutout: side in pixels of a
    square, anywhere, that takes the image's mean colour (DeVries & Taylor 2017, "Improved regularization of
    convolutional neural networks with cutout"); noise: standard deviation, as a share of the pixels' range (of 1, for
    floats). For photographs: crop: pads with this many black pixels and cuts out a window of the image's size; resized_crop:
    the smallest fraction of the area for a box, anywhere, that is scaled to the image's size (Szegedy et al. 2015); colour:
    brightness, contrast and saturation times 1 - colour to 1 + colour; hue: the largest turn, as a fraction of the colour
    circle; grey: the fraction of images turned grey; blur: the largest standard deviation, in pixels, of a Gaussian blur.
    Pixels from outside the image repeat its border. UsageError for a strength out of its range.

    >>> images = np.arange(18, dtype=np.uint8).reshape(2, 1, 3, 3)
    >>> Augmentation(flip=True)(images, Draws([1], [0, 1]))[:, 0, 0].tolist()
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
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        for key, most in LIMITS.items():
            value, whole = getattr(self, key), key in ("shift", "cutout", "crop")
            if not 0 <= value <= most or (whole and value != int(value)):  # also refuses NaN
                kind = "a whole number" if whole else "a number"
                raise UsageError.expected("augment", key, f"{kind} from 0 to {most:g}", f"{value!s:.20}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the augmentation of a text such as "shift=2,rotate=10,flip"; UsageError for an unknown name or no number.

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

    def __call__(self, images: Pixels, rng: np.random.Generator | Draws) -> Pixels:
        """Return images (B, C, H, W) changed by random numbers from ``rng``; the same state gives the same bits.

        With ``Draws(seed, indices)`` an image is changed in the same way in every batch. The bits do not depend on the BLAS
        or its threads: the one matrix product, of the elastic field, is exact.
        """
        B, (H, W) = len(images), images.shape[2:]
        draws = rng if isinstance(rng, Draws) else Draws.of(rng, B)
        if len(draws) != B:
            raise DataError.expected("augment", "rng", f"random numbers for {B} images", f"for {len(draws)}")
        if self.resized_crop:
            windows = boxes(draws.uniform(*WORDS["resized_crop"]), self.resized_crop)
            images = _interpolate(images, *box_places(windows, H, W))
        if self.crop:
            corners = draws.integers(WORDS["crop"][0], (2 * self.crop + 1,) * 2)
            images = padded_crop(images, corners, self.crop)
        if self.rotate or self.scale or self.elastic:
            angles = np.deg2rad(_about(draws, "rotate", self.rotate)[:, 0])
            factors = 1 + _about(draws, "scale", self.scale)[:, 0]
            shifts, flips = self._shifts(draws), self._flips(draws)
            field = np.float32(self.elastic) * elastic_field(draws, H, W) if self.elastic else None
            images = warp(images, angles, factors, shifts, flips, field)
        elif self.shift or self.flip:
            images = move(images, self._shifts(draws), self._flips(draws))
        if self.colour:
            images = _rounded(vary_colours(images, 1 + _about(draws, "colour", self.colour)), images.dtype)
        if self.hue:
            images = _rounded(turn_hues(images, _about(draws, "hue", self.hue)[:, 0]), images.dtype)
        if self.grey:
            without = draws.uniform(*WORDS["grey"])[:, :, None, None] < self.grey
            images = np.where(without, _rounded(grey(images.astype(np.float32)), images.dtype), images)
        if self.blur:
            images = _rounded(blur(images, self.blur * draws.uniform(*WORDS["blur"])[:, 0], self.blur), images.dtype)
        if self.cutout:
            images = cut_out(images, draws.integers(WORDS["cutout"][0], (H, W)), self.cutout)
        if self.noise:
            noise = draws.normals(STREAMS["noise"], images.shape[1:])
            noise *= np.float32(self.noise)
            images = add_noise(images, noise)
        return images

    def _shifts(self, draws: Draws) -> NDArray[np.int64]:
        return draws.integers(WORDS["shift"][0], (2 * self.shift + 1,) * 2) - self.shift

    def _flips(self, draws: Draws) -> NDArray[np.bool_]:
        return draws.uniform(*WORDS["flip"])[:, 0] < (0.5 if self.flip else 0.0)


def _about(draws: Draws, kind: str, strength: float) -> NDArray[np.float64]:
    """Return the numbers of a kind, from -strength to strength."""
    return strength * (2 * draws.uniform(*WORDS[kind]) - 1)


def move(images: Pixels, shifts: NDArray[np.int64], flips: NDArray[np.bool_]) -> Pixels:
    """Return images (B, C, H, W) flipped left to right where ``flips`` (B,), then moved by ``shifts`` (B, 2) pixels.

    A shift is (down, right); border pixels are repeated.

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
    to the position that each pixel is read from. Images turn about the centre, anticlockwise, and are read by bilinear
    interpolation; border pixels are repeated.

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


def elastic_field(draws: Draws, H: int, W: int) -> Floats:
    """Return smooth random displacements (2, B, H, W), each of mean 0 and standard deviation 1.

    Independent uniform numbers, smoothed along both axes by a Gaussian whose rows have unit norm.

    >>> elastic_field(Draws([0], range(3)), 28, 20).shape
    (2, 3, 28, 20)
    """
    raw = draws.uniforms(STREAMS["elastic"], (2, H, W)) - np.float32(0.5)
    smooth = rounded(_gaussian(H)) @ rounded(rounded(raw) @ rounded(_gaussian(W).T))
    return (smooth * math.sqrt(12)).astype(np.float32).swapaxes(0, 1)


def _gaussian(size: int) -> NDArray[np.float64]:
    """Return the (size, size) matrix that smooths and keeps the variance of independent numbers."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / max(SMOOTH * size, 1e-9)
    weights = np.exp(-(distance**2) / 2)
    unit: NDArray[np.float64] = weights / np.sqrt((weights**2).sum(1, keepdims=True))
    return unit


def cut_out(images: Pixels, centres: NDArray[np.int64], side: int) -> Pixels:
    """Return images (B, C, H, W) with a square about each of ``centres`` (B, 2) in the image's mean colour.

    The part of a square beyond the border is cut off.

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
    noise = noise * np.float32(255)
    noise += images
    np.clip(noise, 0, 255, out=noise)
    return np.rint(noise, out=noise).astype(np.uint8)


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
