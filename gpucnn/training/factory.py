"""Build the parts of a run from its settings: split, network, optimiser, schedule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn import models, nn
from gpucnn.autograd import Tensor, no_grad, tensor
from gpucnn.backend import Backend, get_backend, use
from gpucnn.data import Dataset, Splits
from gpucnn.errors import DataError, DeviceError, ParameterError, ShapeError, UsageError
from gpucnn.models.cost import bounded
from gpucnn.training.config import PRECISIONS, Settings, is_file_model
from gpucnn.training.loader import Normalisation
from gpucnn.training.objective import make_loss
from gpucnn.training.registry import make_optimizer, make_schedule

VALIDATION = 5000
"""Images held out for validation by default, or a fifth of the training images if that is fewer."""


def split_validation(
    train: Dataset, limit: int | None, validation: int | None, seed: int, share: float | None = None
) -> tuple[Dataset, Dataset | None]:
    """Return the training and validation sets: seeded shuffle, then the first ``limit``, of which some are held out.

    validation: how many, or None for the fraction ``share`` (by default 5,000, or a fifth if that is fewer). DataError if
    nothing would be left to train on.
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


def training_and_validation(splits: Splits, settings: Settings) -> tuple[Dataset, Dataset | None]:
    """Return the training and validation sets: the data's own validation set, unless the settings ask for another."""
    given = splits.validation
    asked = settings.validation, settings.val_split
    if given is not None and asked == (None, None):
        train, _ = split_validation(splits.train, settings.limit, 0, settings.seed)
        return train, given
    if given is not None and any(asked):
        warnings.warn("the data's own validation images are not used: some of the training images are", stacklevel=3)
    return split_validation(splits.train, settings.limit, settings.validation, settings.seed, settings.val_split)


def check_model(model: str) -> None:
    """UsageError if ``model`` is not a known name, or has an option that the network does not take.

    A network from a user's file may depend on the data: it is built, and checked, once the data are read.
    """
    if not is_file_model(model):
        models.check(model)


def check_named(settings: Settings) -> None:
    """UsageError if optimiser, schedule or loss have an unknown option, or one out of range."""
    one = [("weight", nn.Parameter(tensor([0.0], device="cpu")))]
    optimizer = make_optimizer(settings.optimizer, one, settings.lr, settings.momentum, settings.weight_decay)
    make_schedule(settings.schedule, optimizer, settings.epochs * 100, 100)
    make_loss(settings.loss, None, settings.label_smoothing)


def check_precision(settings: Settings, backend: Backend) -> None:
    """UsageError if the device cannot compute in the requested precision."""
    try:
        with backend.tf32(settings.precision == "tf32"):
            pass
    except DeviceError as error:
        raise UsageError(f"precision {error} Or choose the device: --device cuda.") from None


def build_model(
    model: str, image_shape: tuple[int, int, int], classes: int, precision: str, backend: Backend | None = None
) -> nn.Module:
    """Return the network that ``model`` describes, for images of this shape; UsageError if it does not fit them."""
    C, H, W = image_shape
    backend = backend or get_backend()
    try:
        with use(backend):
            net = models.build(model, classes=classes, in_channels=C, image_size=H if H == W else (H, W))
    except (ParameterError, ShapeError) as error:
        raise UsageError(f"model {model}: {error}") from None
    return fitted(net, model, image_shape, classes, precision, backend)


def rebuild_model(
    structure: Any, weights: Mapping[str, Any], image_shape: tuple[int, int, int], classes: int, precision: str,
    backend: Backend,
) -> nn.Module:  # fmt: skip
    """Return the network of this structure (``models.describe``), with new weights.

    UsageError if it does not fit, costs more than the limits on untrusted files allow, or has more parameters than
    ``weights``.
    """
    try:
        with use(backend):
            net = models.rebuild(structure, weights)
    except ParameterError as error:
        raise UsageError(str(error)) from None
    with bounded(net):
        return fitted(net, "of the structure", image_shape, classes, precision, backend)


def fitted(
    net: nn.Module, model: str, image_shape: tuple[int, int, int], classes: int, precision: str, backend: Backend
) -> nn.Module:
    """Return ``net`` in the requested precision; UsageError unless it gives one output per class for an image."""
    dtype = PRECISIONS[precision]
    if dtype != "float32":
        net.to(dtype)
    try:
        with no_grad():
            x = Tensor(backend.asarray(np.zeros((1, *image_shape), dtype)), backend)
            outputs = net.eval()(x).shape
    except (ParameterError, ShapeError) as error:
        raise UsageError(f"model {model}: {error}") from None
    if outputs != (1, classes):
        raise UsageError.expected(f"model {model}", "outputs", f"one for each of {classes} classes", outputs[1:])
    return net.train()


def structure_of(net: nn.Module) -> dict[str, Any] | None:
    """Return the network's structure as JSON values; None for one with layers of a user's own."""
    try:
        return models.describe(net)
    except ParameterError:
        return None


def task_of(settings: Settings, net: nn.Module, splits: Splits, normalisation: Normalisation) -> dict[str, Any]:
    """Return what evaluation and prediction need to know besides the weights."""
    first, _ = splits.train[np.arange(1)]
    return {
        "model": settings.model,
        "structure": structure_of(net),
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
    return f"{models.split_model(settings.model)[0]}-{Path(settings.data).stem}"
