"""One training step, visible whole, and the running totals of an epoch, kept on the device."""

from __future__ import annotations

from typing import Any

from gpucnn.autograd import Tensor, no_grad
from gpucnn.backend import Backend
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
        self._loss = Tensor(backend.asarray(loss, "float64"), backend)
        self._right = Tensor(backend.asarray(right, "int64"), backend)
        self.count = count

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Add a batch whose mean loss is ``loss``."""
        with no_grad():
            self._loss = self._loss + loss.to("float64") * len(y)
            self._right = self._right + (logits.argmax(1) == y).sum()
        self.count += len(y)

    @property
    def loss(self) -> float:
        """The mean loss of all images so far; NaN without any."""
        return float(self._loss) / self.count if self.count else float("nan")

    @property
    def accuracy(self) -> float:
        """The share of right answers so far, 0 to 1; NaN without any."""
        return float(self._right) / self.count if self.count else float("nan")

    def state(self) -> dict[str, Any]:
        """Return what the constructor takes, exactly."""
        return {"loss": float(self._loss), "right": int(self._right), "count": self.count}
