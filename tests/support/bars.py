"""Images of bars, and a Classifier that learns them in a moment."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn import Classifier, nn

Host = np.ndarray[Any, Any]


def bars(count: int, seed: int = 0, size: int = 6) -> tuple[Host, Host]:
    """Return noisy images, (N, size, size) uint8, of a bright row ("row") or a bright column ("column")."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, size, size)).astype(np.uint8)
    kinds = rng.integers(0, 2, count)
    for image, kind, place in zip(images, kinds, rng.integers(0, size, count), strict=True):
        if kind:
            image[place] = 255
        else:
            image[:, place] = 255
    return images, np.array(["column", "row"])[kinds]


def small(classes: int, in_channels: int, image_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * (image_size - 2) ** 2, classes)
    )


X, Y = bars(200)


X_TEST, Y_TEST = bars(100, seed=1)


def quick(**changes: Any) -> Classifier:
    return Classifier(**{"model": small, "epochs": 6, "batch_size": 20, "lr": 0.01, "device": "cpu", **changes})


def dropping() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 2))
