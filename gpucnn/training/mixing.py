"""Mixup and CutMix: images of a batch are blended with each other, or get a box of each other, and so are their labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.autograd import Tensor, tensor
from gpucnn.backend import ops
from gpucnn.errors import ParameterError
from gpucnn.optim.optimizer import check_number
from gpucnn.training.loader import Batches, LoadedBatches

MIXING = 2
"""Last number of the seed of a mixed batch; that of an augmented one is 1."""


def draw_mix(rng: np.random.Generator, mixup: float | None, cutmix: float | None, H: int, W: int) -> tuple[Any, float]:
    """Return the fraction that each pixel keeps of itself, (H, W) float64, and the fraction that the label keeps: the mean.

    mixup: one fraction for all pixels, drawn from Beta(mixup, mixup). cutmix: 0 in a box and 1 elsewhere; the box has a
    side of sqrt(1 - fraction), anywhere, cut off at the border. With both, one of the two at even odds.
    Source: Zhang et al. 2018; Yun et al. 2019.

    >>> mask, part = draw_mix(np.random.default_rng(0), None, 1.0, 4, 4)
    >>> bool(mask.mean() == part), sorted(set(mask.ravel().tolist()))
    (True, [0.0, 1.0])
    """
    boxed = not mixup or (bool(cutmix) and rng.random() < 0.5)
    strength = cutmix if boxed else mixup
    assert strength
    part = float(rng.beta(strength, strength))
    if not boxed:
        return np.full((H, W), part), part
    half = 0.5 * np.sqrt(1 - part)
    row, column = int(rng.integers(H)), int(rng.integers(W))
    mask = np.ones((H, W))
    down, right = int(half * H), int(half * W)
    mask[max(row - down, 0) : row + down, max(column - right, 0) : column + right] = 0
    return mask, float(mask.mean())


class MixedBatches(Batches):
    """The batches of others with images and labels mixed; labels become class distributions (B, C).

    The mixing depends on (seed, epoch, batch) only, so a resumed run mixes in the same way. mixup, cutmix: the parameters of
    the Beta distributions; at least one is above 0. Raises ParameterError.
    """

    def __init__(
        self, batches: LoadedBatches, seed: int, mixup: float | None = None, cutmix: float | None = None
    ) -> None:
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            check_number(0.0 if value is None else value, "MixedBatches", name, 0, 1000)
        if not (mixup or cutmix):
            raise ParameterError.expected("MixedBatches", "mixup or cutmix", "a number above 0", "neither")
        self._batches, self._seed, self._mixup, self._cutmix = batches, seed, mixup, cutmix
        self._classes = batches.loader.data.classes
        self._shape = batches.loader.data.image_shape[1:]
        self.state = batches.state

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        device, kind = self._batches.backend, self._batches.loader.dtype
        for place, given in enumerate(self._batches.epoch(number, start), start):
            rng = np.random.default_rng([self._seed, number, place, MIXING])
            mask, part = draw_mix(rng, self._mixup, self._cutmix, *self._shape)
            others = tensor(rng.permutation(given[0]), device=device)
            label = np.promote_types(kind, np.float32)
            yield *given, others, tensor(mask, str(kind), device), tensor(part, str(label), device)

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        *rest, others, mask, part = given
        x, y = self._batches.take(count, *rest)
        d, _ = ops.label_distribution(x.backend, y.array, None, self._classes, part.dtype, None, 0.0)
        labels = Tensor(d, x.backend)
        return x * mask + x[others] * (1 - mask), labels * part + labels[others] * (1 - part)


def mixed(batches: LoadedBatches, seed: int, mixup: float | None, cutmix: float | None) -> Batches:
    """Return ``batches``, mixed if one of the strengths is above 0."""
    return MixedBatches(batches, seed, mixup, cutmix) if mixup or cutmix else batches
