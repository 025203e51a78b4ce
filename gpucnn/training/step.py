"""One step of training: forward, loss, gradients, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpucnn.autograd import Tensor
from gpucnn.autograd.creation import concatenate
from gpucnn.nn import Module
from gpucnn.optim import Optimizer, clip_grad_norm_
from gpucnn.training.loss_scale import LossScale

LossFunction = Callable[[Tensor, Tensor], Tensor]


def has_own_step(optimizer: Any) -> bool:
    """Whether ``optimizer`` has its own ``step``: a subclass that overrides it, or an object that is no Optimizer."""
    return not isinstance(optimizer, Optimizer) or optimizer.has_own_step()


def train_step(
    net: Module,
    loss_fn: LossFunction,
    optimizer: Any,
    x: Tensor,
    y: Tensor,
    scale: LossScale | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
) -> tuple[Tensor, Tensor]:
    """Do one step on a batch and return (loss, logits). A loss that is not finite changes no parameter.

    x: (B, C, H, W); y: (B,) integers; both on the network's device. Nothing waits for the device. With a ``scale`` (for
    networks in float16) a gradient that is not finite changes no parameter either, only the scale. An optimizer with a
    ``step`` of its own (a subclass, or any object with ``zero_grad`` and ``step``) is called as in PyTorch, without these
    two conditions. clip_norm: the largest norm of all gradients; larger ones are scaled down to it before the update.
    accumulate: the number of parts of the batch whose gradients are added: less memory, the same mean.

    >>> import gpucnn
    >>> from gpucnn import nn, optim
    >>> net = nn.Linear(2, 2)
    >>> x, y = gpucnn.tensor([[1.0, 2.0]]), gpucnn.tensor([1])
    >>> loss, logits = train_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), x, y)
    >>> loss.shape, logits.shape
    ((), (1, 2))
    """
    optimizer.zero_grad()
    loss, logits = batch_gradients(net, loss_fn, x, y, None if has_own_step(optimizer) else scale, accumulate)
    apply_gradients(net, optimizer, loss, scale, clip_norm)
    return loss, logits


def apply_gradients(
    net: Module, optimizer: Any, loss: Tensor, scale: LossScale | None = None, clip_norm: float | None = None
) -> None:
    """Clip the gradients and update the parameters, unless the loss, or a scaled gradient, is not finite."""
    own_step = has_own_step(optimizer)
    if own_step:
        scale = None
    if clip_norm is not None:
        clip_grad_norm_(net.parameters(), clip_norm, scale=None if scale is None else scale.scale)
    if own_step:
        optimizer.step()
    elif scale is None:
        optimizer.step(where=loss.isfinite())
    else:
        finite = scale.finite(loss, optimizer)
        optimizer.step(where=finite, scale=scale.scale)
        scale.adjust(finite)


def batch_gradients(
    net: Module, loss_fn: LossFunction, x: Tensor, y: Tensor, scale: LossScale | None, parts: int, weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Add up the gradients of this many parts of a batch, one after the other; return its (loss, logits), detached.

    weight: a factor on loss and gradients, if this is a part of a larger batch.
    """
    count = len(x)
    size = -(-count // parts) if count else 1
    losses, outputs = [], []
    for first in range(0, max(count, 1), size):
        part = slice(first, first + size)
        whole = size >= count
        logits = net(x if whole else x[part])
        loss = loss_fn(logits, y if whole else y[part])
        factor = weight if whole else weight * (len(logits) / count)
        share = loss if factor == 1 else loss * factor
        (share if scale is None else scale(share)).backward()
        losses.append(share.detach())
        outputs.append(logits.detach())
    if len(losses) == 1:
        return losses[0], outputs[0]
    return sum(losses[1:], losses[0]), concatenate(outputs)
