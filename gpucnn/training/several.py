"""An optimiser whose step first averages the gradients of several processes, for a loop of your own."""

from __future__ import annotations

from typing import Any

from gpucnn.autograd import tensor
from gpucnn.backend import ops
from gpucnn.checks import is_count
from gpucnn.distributed import Communicator
from gpucnn.errors import ParameterError, kind_of
from gpucnn.training.shards import Gradients


class Distributed:
    """The result of ``distributed``. All other attributes are those of the optimiser, in ``optimizer``."""

    def __init__(self, optimizer: Any, comm: Communicator) -> None:
        self.optimizer, self.comm = optimizer, comm
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for p in self._parameters:
            values = ops.c_ordered_copy(p.backend, p.array)
            comm.broadcast(values)
            ops.fill(p.backend, p.array, values)
            p.note_change()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.optimizer.zero_grad()

    def step(self, images: int | None = None) -> None:
        """Average the gradients over the processes, and update the parameters.

        images: the number of images whose mean the gradient of this process is, if the processes have different numbers; one
        without images passes 0 and needs no gradient. Every process must call it, all with or all without a number.
        ParameterError for an invalid number.
        """
        if images is not None and not is_count(images, 0):
            raise ParameterError.expected("step", "images", "an int of at least 0", repr(images))
        gradients = Gradients(self._parameters)
        backend = gradients.parameters[0].backend
        own = 1.0 if images is None else float(images)
        flags = gradients.present() if own else [0.0] * len(gradients.parameters)
        counts = tensor([own, *flags], "float64", backend)
        self.comm.all_reduce(counts.array)
        total, *present = counts.tolist()
        arrays = gradients.flat()
        for array in arrays:
            part = ops.multiply(backend, array, backend.asarray(own / total, array.dtype)) if own else 0
            ops.fill(backend, array, part)
            self.comm.all_reduce(array)
        gradients.set(arrays, present)
        self.optimizer.step()


def distributed(optimizer: Any, comm: Communicator) -> Distributed:
    """Return the optimiser for a loop that several processes run: ``step`` averages their gradients before the update.

    The parameters become those of rank 0. Each process is one shard: gradients are summed in a tree over the ranks, the same
    in every process. ``Loop(..., comm=comm)`` allows several shards per process. Raises ParameterError for an object without
    ``param_groups``.

    >>> import gpucnn
    >>> from gpucnn import nn, optim
    >>> from gpucnn.distributed import init
    >>> net = nn.Linear(2, 1)
    >>> optimizer = distributed(optim.SGD(net.parameters(), lr=0.1), init())
    >>> net(gpucnn.tensor([[1.0, 2.0]])).sum().backward()
    >>> optimizer.step()
    """
    if not hasattr(optimizer, "param_groups"):
        raise ParameterError.expected("distributed", "optimizer", "an Optimizer", kind_of(optimizer))
    if not isinstance(comm, Communicator):
        raise ParameterError.expected("distributed", "comm", "a communicator of distributed.init", kind_of(comm))
    return Distributed(optimizer, comm)
