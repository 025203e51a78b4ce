"""One step of training: forward, loss, gradients, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpucnn.autograd import Tensor
from gpucnn.nn import Module
from gpucnn.optim import Optimizer, clip_grad_norm_
from gpucnn.training.loss_scale import LossScale

LossFunction = Callable[[Tensor, Tensor], Tensor]


def has_own_step(optimizer: Any) -> bool:
    """Whether ``optimizer`` makes its updates itself: a subclass with a ``step``, or an object that is no Optimizer."""
    return not isinstance(optimizer, Optimizer) or optimizer.has_own_step()


def train_step(
    net: Module,
    loss_fn: LossFunction,
    optimizer: Any,
    x: Tensor,
    y: Tensor,
    scale: LossScale | None = None,
    clip_norm: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Do one step on a batch and return (loss, logits). A loss that is not finite changes no parameter.

    x: (B, C, H, W); y: (B,) integers; all on the network's device. Nothing waits for the device. With a ``scale`` (for
    networks in float16) a gradient that is not finite changes no parameter either, but the scale. An optimizer with a
    ``step`` of its own (a subclass, or any object with ``zero_grad`` and ``step``) is called as in PyTorch, without both.
    clip_norm: what the norm of all gradients is scaled down to where it is larger, before the update.

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
    if has_own_step(optimizer):
        loss.backward()
        if clip_norm is not None:
            clip_grad_norm_(net.parameters(), clip_norm)
        optimizer.step()
    elif scale is None:
        loss.backward()
        if clip_norm is not None:
            clip_grad_norm_(net.parameters(), clip_norm)
        optimizer.step(where=loss.detach().isfinite())
    else:
        scale(loss).backward()
        finite = scale.finite(loss.detach(), optimizer)
        if clip_norm is not None:
            clip_grad_norm_(net.parameters(), clip_norm, scale=scale.scale)
        optimizer.step(where=finite, scale=scale.scale)
        scale.adjust(finite)
    return loss.detach(), logits.detach()
