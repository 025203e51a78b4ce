"""What the report shows of the training images: how many of each class, and how the network sees them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.report.training_images import MOST_SAMPLED, Balance
from gpucnn.training import Loader, Normalisation, Settings
from gpucnn.training.mixing import mixed

MOST_EXAMPLES = 6
"""Images that stand for a class, or for a confusion of two."""
MOST_VIEWS, VIEWED_EPOCHS = 4, 6
"""Images that are shown as augmentation made them, and in how many epochs."""
MIXED_BATCHES, MIXED_EACH = 3, 4
"""First batches whose images are shown as they were mixed, and how many of each: a batch is mixed in one proportion."""


def balance_of(loader: Loader, normalisation: Normalisation, settings: Settings) -> Balance | None:
    """Return how many training images there are of each class, and some as the network sees them in the first epochs.

    loader: of the training images, with their augmentation. None for a data set that does not know its labels beforehand.
    """
    data = loader.data
    labels = getattr(data, "labels", None)
    if labels is None:
        return None
    counts = np.bincount(labels, minlength=len(data.class_names))
    samples: list[list[Any]] = [[] for _ in data.class_names]
    chosen = np.concatenate(
        [np.flatnonzero(labels == i)[:MOST_EXAMPLES] for i in range(min(len(samples), MOST_SAMPLED))]
    )
    x, _ = loader.batch(chosen, (settings.seed, 0))
    for label, image in zip(labels[chosen], _as_images(x, normalisation), strict=True):
        samples[label].append(image)
    views = list(_views(loader, normalisation, settings, counts)) if loader.augmentation is not None else ()
    mixes = list(_mixed(loader, normalisation, settings)) if settings.mixup or settings.cutmix else ()
    return Balance(data.class_names, counts.tolist(), samples, views, mixes)


def _views(
    loader: Loader, normalisation: Normalisation, settings: Settings, counts: Any
) -> Iterator[tuple[int, list[Any]]]:
    """Yield an image of each of some classes as it is, and in the first epochs: (class, images)."""
    labels = loader.data.labels  # type: ignore[attr-defined]
    classes = np.flatnonzero(counts)[:MOST_VIEWS]
    chosen = np.array([np.flatnonzero(labels == i)[0] for i in classes])
    seeds = [(), *((settings.seed, epoch) for epoch in range(min(VIEWED_EPOCHS, settings.epochs)))]
    seen = [_as_images(loader.batch(chosen, seed)[0], normalisation) for seed in seeds]
    for place, i in enumerate(classes):
        yield int(i), [images[place] for images in seen]


def _mixed(
    loader: Loader, normalisation: Normalisation, settings: Settings
) -> Iterator[tuple[Any, list[tuple[int, float]]]]:
    """Yield images of the run's first batches as they were mixed, with their classes and shares."""
    batches = mixed(loader.batches(settings.batch_size, settings.seed), settings.seed, settings.mixup, settings.cutmix)
    for given in itertools.islice(batches.epoch(0), MIXED_BATCHES):
        x, y = (part[:MIXED_EACH] for part in batches.take(*given))
        for image, shares in zip(_as_images(x, normalisation), y.numpy(), strict=True):
            order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
            yield image, [(i, float(shares[i])) for i in order]


def _as_images(x: Any, normalisation: Normalisation) -> Any:
    """Return a batch (B, C, H, W) as the network gets it, as images from 0 to 1."""
    mean, std = (np.array(values)[:, None, None] for values in (normalisation.mean, normalisation.std))
    return np.round(x.numpy().astype(np.float64) * std + mean, 6)  # without the last bits, 1 is still white
