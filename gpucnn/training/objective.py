"""The losses of classification by name, as the settings describe them: ``cross-entropy``, ``focal:gamma=2``.

Each takes logits (N, C) and labels (N,), or class distributions (N, C), such as those of mixed images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn import functional as F
from gpucnn import nn
from gpucnn.autograd import Tensor, tensor
from gpucnn.backend import Backend
from gpucnn.data import ArrayDataset, Dataset, ImageFiles
from gpucnn.errors import ParameterError, UsageError
from gpucnn.functional.loss import label_distribution
from gpucnn.optim.optimizer import check_number
from gpucnn.options import read_options

BATCH = 1000


class _OneVersusRest(nn.Module):
    """The mean over images of a loss of all outputs, each image weighted by the ``weight`` (C,) of its class."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        check_number(label_smoothing, type(self).__name__, "label_smoothing", 0, 1)
        self.label_smoothing = label_smoothing
        self.weight = None
        if weight is not None:
            self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the 0-d loss of logits (N, C) and labels (N,) or distributions (N, C)."""
        if str(input.dtype) == "float16":
            input = input.to("float32")
        if target.dtype.kind in "iu":
            target, _ = label_distribution(input, target, None, None, 0.0)
        s = self.label_smoothing
        losses = self.losses(input, target * (1 - s) + s / input.shape[1] if s else target)
        if self.weight is None:
            return losses.mean()
        weights = (target * self.weight).sum(1)
        return (losses * weights).sum() / weights.sum()

    def losses(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each image, (N,)."""
        raise NotImplementedError


class FocalLoss(_OneVersusRest):
    """-sum t (1 - p)^gamma log p over the classes, p the softmax: images that are classified well count less.

    Source: Lin et al. 2017.

    >>> import gpucnn
    >>> round(FocalLoss(gamma=1.0)(gpucnn.tensor([[0.0, 0.0]]), gpucnn.tensor([0])).item(), 4)
    0.3466
    """

    def __init__(self, weight: Tensor | None = None, label_smoothing: float = 0.0, gamma: float = 2.0) -> None:
        super().__init__(weight, label_smoothing)
        check_number(gamma, "FocalLoss", "gamma", 0, 100)
        self.gamma = float(gamma)

    def losses(self, input: Tensor, target: Tensor) -> Tensor:
        log_p = F.log_softmax(input)
        return -(target * (1 - log_p.exp()) ** self.gamma * log_p).sum(1)


class BinaryLoss(_OneVersusRest):
    """Binary cross-entropy of each output against its class, the mean over classes."""

    def losses(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(input, target, "none").mean(1)


class BrierLoss(_OneVersusRest):
    """Squared error of the probabilities, the mean over classes. Source: Brier 1950."""

    def losses(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(F.softmax(input), target, "none").mean(1)


class MarginLoss(_OneVersusRest):
    """Hinge loss of each output, whose target is 1 for its class and -1 for others, the mean over classes."""

    def losses(self, input: Tensor, target: Tensor) -> Tensor:
        return F.hinge_loss(input, target * 2 - 1, "none").mean(1)


def cross_entropy(weight: Tensor | None = None, label_smoothing: float = 0.0) -> nn.CrossEntropyLoss:
    """-log softmax of the correct class."""
    return nn.CrossEntropyLoss(weight=weight, label_smoothing=label_smoothing)


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross-entropy": cross_entropy,
    "focal": FocalLoss,
    "bce": BinaryLoss,
    "mse": BrierLoss,
    "hinge": MarginLoss,
}


def make_loss(text: str, weight: Tensor | None = None, label_smoothing: float = 0.0) -> nn.Module:
    """Return the loss that ``text`` describes; UsageError for an unknown option or a value out of range.

    >>> type(make_loss("focal:gamma=1")).__name__
    'FocalLoss'
    """
    name, _, rest = text.partition(":")
    make = LOSSES[name]
    options: dict[str, Any] = read_options(rest, make, f"loss {name}", first=2)
    try:
        return make(weight, label_smoothing, **options)
    except ParameterError as error:
        raise UsageError(f"loss {name}: {error}") from None


def balanced_weights(data: Dataset) -> Any:
    """Return N / (C n_c) for each class of ``data``, (C,) float64: rare classes count more; 1 for a class without images.

    N images, of which n_c are of class c. A data set that is not in memory is read once. Source: scikit-learn's "balanced".
    """
    if isinstance(data, (ArrayDataset, ImageFiles)):
        labels = data.labels
    else:
        parts = [np.arange(start, min(start + BATCH, len(data))) for start in range(0, len(data), BATCH)]
        labels = np.concatenate([np.asarray(data[part][1]) for part in parts])
    counts = np.bincount(labels, minlength=data.classes)
    return np.where(counts, len(labels) / (data.classes * np.maximum(counts, 1)), 1.0)


def loss_for(settings: Any, train: Dataset, backend: Backend, dtype: str = "float32") -> nn.Module:
    """Return the loss of a run (``settings.loss``, ``class_weights``, ``label_smoothing``) on its training set."""
    weight = None
    if settings.class_weights is not None:
        kind = "float32" if dtype == "float16" else dtype
        weight = tensor(balanced_weights(train).astype(kind), device=backend)
    return make_loss(settings.loss, weight, settings.label_smoothing)
