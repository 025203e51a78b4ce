"""Random numbers for images. Those of an image depend on a seed and the image's index only, not on the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

WORDS = 32
"""Random words per image."""

GOLDEN, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def splitmix(key: int, places: Words) -> Words:
    """Return the words at these ``places``, from 1, of the SplitMix64 generator that ``key`` seeds.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".

    >>> [hex(word) for word in splitmix(0, np.array([1, 2], np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    z = places * GOLDEN + np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= FIRST
    z ^= z >> np.uint64(27)
    z *= SECOND
    z ^= z >> np.uint64(31)
    return z


class Draws:
    """The random numbers of a batch of images, whose indices in the data set are ``indices`` (B,).

    Each image has words 0 to 31, from which ``uniform`` and ``integers`` draw a few numbers, and streams for whole arrays.
    seed: integers of at least 0.

    >>> alone, together = Draws([7], [5]), Draws([7], [3, 5])
    >>> bool((alone.uniform(0, 2) == together.uniform(0, 2)[1:]).all())
    True
    """

    def __init__(self, seed: Sequence[int], indices: Any) -> None:
        self.indices = np.asarray(indices).astype(np.uint64)
        self._key = np.random.SeedSequence(list(seed)).generate_state(2, np.uint64)

    @classmethod
    def of(cls, rng: np.random.Generator, count: int) -> Draws:
        """Return the random numbers of this many images, with a seed from ``rng``."""
        return cls([int(rng.integers(2**63))], np.arange(count))

    def __len__(self) -> int:
        return len(self.indices)

    def uniform(self, first: int, count: int) -> NDArray[np.float64]:
        """Return words ``first`` to ``first + count - 1`` of each image as numbers from 0 to below 1: (B, count)."""
        numbers: NDArray[np.float64] = (self._words(self._key[0], first, count) >> np.uint64(11)) * np.float64(2.0**-53)
        return numbers

    def integers(self, first: int, highs: Sequence[int]) -> NDArray[np.int64]:
        """Return whole numbers from 0 to below each of ``highs``, of the words from ``first`` on: (B, len(highs))."""
        numbers: NDArray[np.int64] = (self.uniform(first, len(highs)) * np.array(highs)).astype(np.int64)
        return numbers

    def uniforms(self, stream: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of numbers from 0 to below 1 for each image: (B, *shape)."""
        return self._filled(stream, shape, np.random.Generator.random)

    def normals(self, stream: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of numbers of the standard normal distribution for each image: (B, *shape)."""
        return self._filled(stream, shape, np.random.Generator.standard_normal)

    def _filled(self, stream: int, shape: tuple[int, ...], fill: Callable[..., Any]) -> NDArray[np.float32]:
        """Return an array for each image, of an SFC64 generator whose state is three words of the image's."""
        numbers = np.empty((len(self), *shape), np.float32)
        states = np.ones((len(self), 4), np.uint64)  # the last is a counter, from 1
        states[:, :3] = self._words(self._key[1], 4 * stream, 3)
        bits = np.random.SFC64(0)
        rng, state = np.random.Generator(bits), bits.state
        for words, part in zip(states, numbers, strict=True):
            state["state"]["state"] = words
            bits.state = state
            fill(rng, dtype=np.float32, out=part)
        return numbers

    def _words(self, key: np.uint64, first: int, count: int) -> Words:
        words: Words = np.arange(first + 1, first + count + 1, dtype=np.uint64)
        places: Words = self.indices[:, None] * np.uint64(WORDS) + words
        return splitmix(int(key), places)
