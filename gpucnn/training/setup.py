"""What a run is made of, as its settings say: the split, the network, the optimiser, the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpucnn import models, nn, optim
from gpucnn.autograd import Tensor, no_grad
from gpucnn.backend import Backend, get_backend, use
from gpucnn.data import Dataset, Splits
from gpucnn.errors import DataError, ParameterError, ShapeError, UsageError
from gpucnn.training.feed import Normalisation
from gpucnn.training.settings import Settings, is_file_model

VALIDATION = 5000
"""Images held out for validation by default, or a fifth of the training images where that is fewer."""


def split_validation(
    train: Dataset, limit: int | None, validation: int | None, seed: int, share: float | None = None
) -> tuple[Dataset, Dataset | None]:
    """Return the training and validation sets: seeded shuffle, then the first ``limit``, of which some are held out.

    validation: how many, or None for ``share`` of them (by default 5,000, or a fifth where that is fewer).
    DataError where nothing would be left to train on.
    """
    order = np.random.default_rng(seed).permutation(len(train))[: limit or len(train)]
    if validation is None:
        validation = min(VALIDATION, len(order) // 5) if share is None else round(share * len(order))
    if validation >= len(order):
        raise DataError.expected(
            "validation",
            "split",
            f"fewer than the {len(order)} training images",
            f"{validation}",
            "pass a smaller --validation",
        )
    if not validation:
        return train.subset(order), None
    return train.subset(order[validation:]), train.subset(order[:validation])


def check_model(model: str) -> None:
    """UsageError where ``model`` names none of our networks, or has an option that it does not take.

    A network from a user's file may need to know the data first: it is built, and checked, once they are read.
    """
    if is_file_model(model):
        return
    try:
        models.build(model)
    except (ParameterError, ShapeError) as error:
        raise UsageError(f"model {model}: {error}") from None


def build_model(
    model: str, image_shape: tuple[int, int, int], classes: int, precision: str, backend: Backend | None = None
) -> nn.Module:
    """Return the network that ``model`` describes, for images of this shape; UsageError where it does not fit them.

    One image is sent through it to see.
    """
    C, H, W = image_shape
    if H != W:
        raise DataError.expected(f"model {model}", "images", "as high as wide", f"{H}x{W} pixels", "crop or pad them")
    backend = backend or get_backend()
    try:
        with use(backend):
            net = models.build(model, classes=classes, in_channels=C, image_size=H)
        if precision != "float32":
            net.to(precision)
        with no_grad():
            x = Tensor(backend.asarray(np.zeros((1, C, H, W), precision)), backend)
            outputs = net.eval()(x).shape
    except (ParameterError, ShapeError) as error:
        raise UsageError(f"model {model}: {error}") from None
    if outputs != (1, classes):
        raise UsageError.expected(f"model {model}", "outputs", f"one for each of {classes} classes", outputs[1:])
    net.train()
    return net


def make_optimizer(settings: Settings, net: nn.Module) -> optim.Optimizer:
    """Return the optimiser that ``settings`` names."""
    assert settings.lr is not None
    if settings.optimizer == "sgd":
        return optim.SGD(net.named_parameters(), settings.lr, settings.momentum, settings.weight_decay)
    return optim.Adam(net.named_parameters(), settings.lr, weight_decay=settings.weight_decay)


def make_schedule(settings: Settings, optimizer: optim.Optimizer, batches: int) -> optim.lr_scheduler.OneCycleLR | None:
    """Return the schedule that ``settings`` names; None for a constant learning rate."""
    if settings.schedule == "constant":
        return None
    assert settings.lr is not None
    return optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, settings.epochs * batches)


def task_of(settings: Settings, splits: Splits, normalisation: Normalisation) -> dict[str, Any]:
    """Return what evaluation and prediction need to know besides the weights."""
    first, _ = splits.train[np.arange(1)]
    return {
        "model": settings.model,
        "precision": settings.precision,
        "data": settings.data,
        "class_names": splits.train.class_names,
        "image_shape": list(splits.train.image_shape),
        "pixels": str(first.dtype),
        "framing": splits.framing,
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
    }


def run_name(settings: Settings) -> str:
    """Return the stem of a run folder's name: model and data."""
    return f"{settings.model.partition(':')[0]}-{Path(settings.data).stem}"
