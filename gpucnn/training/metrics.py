"""Running metrics: sums over the images of an epoch, kept on the device. Only reading them waits for the device.

A metric of your own is a subclass of ``Metric``: it says how many sums it keeps, how a batch changes them, and their values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from gpucnn.autograd import Tensor, no_grad, tensor
from gpucnn.backend import Backend, ops
from gpucnn.checks import is_count
from gpucnn.errors import ParameterError, ShapeError


class Metric:
    """Base class of running metrics. ``sums`` is a float64 Tensor of ``shape`` on the device, always in the same memory.

    >>> import gpucnn
    >>> class MeanOutput(Metric):
    ...     shape = (2,)
    ...     def update(self, loss, output, target):
    ...         self.add([output.sum(), output.size])
    ...     def values(self):
    ...         total, count = self.sums.tolist()
    ...         return {"mean_output": total / count}
    >>> metric = MeanOutput().to("cpu")
    >>> metric.update(gpucnn.tensor(0.0), gpucnn.tensor([1.0, 3.0]), gpucnn.tensor([0, 0]))
    >>> metric.values()
    {'mean_output': 2.0}
    """

    shape: tuple[int, ...] = (1,)
    last_at: int | None = None
    """The index of the element of ``sums`` that is not a sum but the loss of the last batch."""
    sums: Tensor

    def to(self, device: str | Backend) -> Self:
        """Allocate the sums on a device, at zero; returns self."""
        self.sums = tensor(np.zeros(self.shape), device=device)
        return self

    def start(self) -> None:
        """Reset the sums to zero."""
        self._set(np.zeros(self.shape))

    def update(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        """Add a batch: its mean loss (0-d), the network's outputs (B, ...) and the targets (B, ...), detached."""
        raise NotImplementedError

    def add(self, values: Tensor | Sequence[Tensor | float]) -> None:
        """Add to the sums: a Tensor of their shape, or a number or 0-d Tensor for each."""
        backend, sums = self.sums.backend, self.sums.array
        if isinstance(values, Tensor):
            ops.add_to(backend, sums, values.array)
        else:
            ops.add_each(backend, sums, [value.array if isinstance(value, Tensor) else value for value in values])

    def values(self) -> dict[str, Any]:
        """Return the values by name; NaN, or None in a list, before any image."""
        raise NotImplementedError

    def state(self) -> list[Any]:
        """Return the exact sums as JSON values."""
        numbers: list[Any] = self.sums.tolist()
        return numbers

    def load(self, state: Any) -> None:
        """Restore what ``state`` returned."""
        self._set(state)

    def _set(self, numbers: Any) -> None:
        with no_grad():
            self.sums.copy_(tensor(np.asarray(numbers, np.float64).reshape(self.shape), device=self.sums.backend))


class Loss(Metric):
    """``loss``: the mean over the images; ``last`` is that of the last batch."""

    shape = (3,)
    last_at = 2

    def update(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        ops.add_loss(self.sums.backend, self.sums.array, loss.array, len(output))

    @property
    def last(self) -> float:
        """The mean loss of the last batch; NaN without any."""
        _, count, last = self.sums.tolist()
        return float(last) if count else math.nan

    @property
    def count(self) -> int:
        """The number of images so far."""
        return int(self.sums.tolist()[1])

    def values(self) -> dict[str, Any]:
        total, count, _ = self.sums.tolist()
        return {"loss": _ratio(total, count)}


class Accuracy(Metric):
    """``accuracy``: the fraction of correct predictions, 0 to 1, where the targets are classes, as indices or one-hot."""

    shape = (2,)

    def update(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        labels = _labels(output, target, "Accuracy")
        self.add([(output.argmax(1) == labels).sum(), labels.size])

    def values(self) -> dict[str, Any]:
        return {"accuracy": _ratio(*self.sums.tolist())}


class LossAndAccuracy(Metric):
    """``loss`` and ``accuracy`` together, with one kernel per batch on a GPU; ``Trainer`` and ``Classifier`` use it.

    sums: losses, correct predictions, images, and the loss of the last batch. With a ``backend`` they are allocated at once,
    with the values that ``state`` returned, or zero.
    """

    shape = (4,)
    last_at = 3

    def __init__(self, backend: Backend | None = None, loss: float = 0.0, right: int = 0, count: int = 0) -> None:
        if backend is not None:
            self.to(backend)
            self.start(loss, right, count)

    def to(self, device: str | Backend) -> Self:
        super().to(device)
        self.start()
        return self

    def start(self, loss: float = 0.0, right: int = 0, count: int = 0) -> None:
        self._set([loss, right, count, math.nan])

    def update(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        backend, labels = self.sums.backend, _labels(output, target, "LossAndAccuracy")
        ops.update_metrics(backend, self.sums.array, loss.array, output.array, labels.array)

    add = update  # type: ignore[assignment]  # its name in 0.1.0

    @property
    def count(self) -> int:
        """The number of images so far."""
        return int(self.sums.tolist()[2])

    @property
    def last(self) -> float:
        """The mean loss of the last batch; NaN without any."""
        return float(self.sums.tolist()[3])

    @property
    def loss(self) -> float:
        """The mean loss so far; NaN without any."""
        return float(self.values()["loss"])

    @property
    def accuracy(self) -> float:
        """The accuracy so far, 0 to 1; NaN without images."""
        return float(self.values()["accuracy"])

    def values(self) -> dict[str, Any]:
        total, correct, count, _ = self.sums.tolist()
        return {"loss": _ratio(total, count), "accuracy": _ratio(correct, count)}

    def state(self) -> Any:
        total, correct, count, _ = self.sums.tolist()
        return {"loss": total, "right": int(correct), "count": int(count)}

    def load(self, state: Any) -> None:
        self.start(float(state["loss"]), int(state["right"]), int(state["count"]))


class TopK(Metric):
    """``top_k``, with the number in its name: the fraction of images whose class is among the ``k`` most probable.

    Of equal outputs the first counts as more probable, as for ``argmax``.
    """

    shape = (2,)

    def __init__(self, k: int = 5) -> None:
        if not is_count(k, 1):
            raise ParameterError.expected("TopK", "k", "a positive int", repr(k))
        self.k = k

    def update(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        labels = _labels(output, target, "TopK")
        found = ops.count_top_k(output.backend, output.array, labels.array, self.k)
        self.add([output.like(found), len(labels)])

    def values(self) -> dict[str, Any]:
        return {f"top_{self.k}": _ratio(*self.sums.tolist())}


class PerClass(Metric):
    """``precision``, ``recall`` and ``f1``: a list with a number for each class, None where it has no images or predictions.

    ``confusion`` holds the counts (classes, classes): row = label, column = prediction.
    """

    def __init__(self, classes: int) -> None:
        if not is_count(classes, 1):
            raise ParameterError.expected("PerClass", "classes", "a positive int", repr(classes))
        self.shape = (classes, classes)

    def update(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        labels, answers = _labels(output, target, "PerClass"), output.argmax(1)
        self.add(output.like(ops.confusion(output.backend, labels.array, answers.array, self.shape[0])))

    @property
    def confusion(self) -> Any:
        """The counts on the host, (classes, classes) int64."""
        return self.sums.numpy().astype(np.int64)

    def values(self) -> dict[str, Any]:
        counts = self.confusion
        correct, of_label, of_answer = counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist()
        both = [a + b for a, b in zip(of_label, of_answer, strict=True)]
        return {
            "precision": [_share(a, b) for a, b in zip(correct, of_answer, strict=True)],
            "recall": [_share(a, b) for a, b in zip(correct, of_label, strict=True)],
            "f1": [_share(2 * a, b) for a, b in zip(correct, both, strict=True)],
        }


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _labels(output: Tensor, target: Tensor, where: str) -> Tensor:
    """Return the targets as class indices; ShapeError if they do not fit the outputs' classes."""
    if output.ndim < 2:
        raise ShapeError.expected(where, "output", "(B, classes, ...)", f"shape {output.shape}")
    if target.shape == output.shape:
        return target.argmax(1)
    if target.shape != (output.shape[0], *output.shape[2:]):
        raise ShapeError.expected(
            where, "target", f"class indices {(output.shape[0], *output.shape[2:])}", f"shape {target.shape}"
        )
    return target


def merged(metrics: Iterable[Metric]) -> dict[str, Any]:
    """Return the values of several metrics as one dictionary."""
    return {name: value for metric in metrics for name, value in metric.values().items()}
