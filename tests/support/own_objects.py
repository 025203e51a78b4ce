"""A data set, a layer and an optimiser of a user's own."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpucnn
from gpucnn import nn, optim
from gpucnn.data import Dataset


class Rings(Dataset):
    """Images that are made as they are asked for: a ring or a spot. first: the seed of noise; None for clean ones."""

    class_names = ["ring", "spot"]  # noqa: RUF012

    def __init__(self, count: int, first: int | None = None) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Any) -> tuple[Any, Any]:
        labels = np.asarray(indices) % 2
        rows, columns = np.mgrid[:9, :9] - 4
        distance = np.hypot(rows, columns)
        clean = np.array([(distance < 2) if label else (abs(distance - 3) < 1) for label in labels])
        if self.first is None:
            images = 255 * clean
        else:
            noise = [np.random.default_rng(self.first + int(i)).integers(0, 99, (9, 9)) for i in np.asarray(indices)]
            images = 156 * clean + noise
        return images[:, None].astype(np.uint8), labels.astype(np.int64)


class Doubled(nn.Layer):
    """A layer."""

    elementwise = True

    def forward(self, x: gpucnn.Tensor) -> gpucnn.Tensor:
        return x + x


class Descent(optim.Optimizer):
    """An optimiser."""

    @gpucnn.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad
