"""One training step, visible whole, and the running totals of an epoch, kept on the device."""

from __future__ import annotations

from typing import Any

from gpucnn.autograd import Tensor
from gpucnn.backend import Array, Backend
from gpucnn.nn import Module
from gpucnn.optim import Optimizer
from gpucnn.training.loss_scale import LossScale


def train_step(
    net: Module, loss_fn: Module, optimizer: Optimizer, x: Tensor, y: Tensor, scale: LossScale | None = None
) -> tuple[Tensor, Tensor]:
    """Do one step on a batch and return (loss, logits). A loss that is not finite changes no parameter.

    x: (B, C, H, W); y: (B,) integers; all on the network's device. Nothing waits for the device. With a ``scale`` (for
    networks in float16) a gradient that is not finite changes no parameter either, but the scale.

    >>> import gpucnn
    >>> from gpucnn import nn, optim
    >>> net = nn.Linear(2, 2)
    >>> x, y = gpucnn.tensor([[1.0, 2.0]]), gpucnn.tensor([1])
    >>> loss, logits = train_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), x, y)
    >>> loss.shape, logits.shape
    ((), (1, 2))
    """
    optimizer.zero_grad()
    logits = net(x)
    loss = loss_fn(logits, y)
    if scale is None:
        loss.backward()
        optimizer.step(where=loss.detach().isfinite())
    else:
        scale(loss).backward()
        finite = scale.finite(loss.detach(), optimizer)
        optimizer.step(where=finite, scale=scale.scale)
        scale.adjust(finite)
    return loss.detach(), logits.detach()


class Totals:
    """Sums of loss and right answers over images, on the device; reading them waits for it."""

    def __init__(self, backend: Backend, loss: float = 0.0, right: int = 0, count: int = 0) -> None:
        self.sums = Tensor(backend.asarray([0.0] * 4, "float64"), backend)
        """Sum of losses, right answers, images, and the loss of the last batch: (4,), always in the same memory."""
        self.start(loss, right, count)

    def start(self, loss: float = 0.0, right: int = 0, count: int = 0) -> None:
        """Begin anew, at what ``state`` returned or at zero."""
        backend = self.sums.backend
        with backend.active():
            self.sums.array[...] = backend.asarray([loss, right, count, float("nan")], "float64")

    @property
    def seen(self) -> Array:
        """Where the number of images is counted: (1,), a view."""
        return self.sums.array[2:3]

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Add a batch whose mean loss is ``loss``."""
        backend = self.sums.backend
        with backend.active():
            backend.add_totals(self.sums.array, loss.array, logits.array, y.array)

    @property
    def count(self) -> int:
        """The number of images so far."""
        return int(self.sums.numpy()[2])

    @property
    def last(self) -> float:
        """The mean loss of the last batch; NaN without any."""
        return float(self.sums.numpy()[3])

    @property
    def loss(self) -> float:
        """The mean loss of all images so far; NaN without any."""
        total, _, count, _ = self.sums.tolist()
        return float(total / count) if count else float("nan")

    @property
    def accuracy(self) -> float:
        """The share of right answers so far, 0 to 1; NaN without any."""
        _, right, count, _ = self.sums.tolist()
        return float(right / count) if count else float("nan")

    def state(self) -> dict[str, Any]:
        """Return what the constructor takes, exactly."""
        loss, right, count, _ = self.sums.tolist()
        return {"loss": loss, "right": int(right), "count": int(count)}
