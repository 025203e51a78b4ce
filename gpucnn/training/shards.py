"""Steps whose batch is cut into a fixed number of shards, with the same bits for any number of processes.

A shard's gradients, loss and metrics depend on its images only. They are added in a binary tree over the shards: a process
adds its own subtree, and the communicator adds the subtrees, in a tree over the ranks.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gpucnn.autograd import Parameter, Tensor, no_grad, tensor
from gpucnn.autograd.creation import concatenate
from gpucnn.backend import Array, Backend, Generator, drawing_from, ops
from gpucnn.checks import is_count
from gpucnn.distributed import Communicator
from gpucnn.errors import ParameterError
from gpucnn.nn import Dropout, Module
from gpucnn.training.config import MOST_SHARDS
from gpucnn.training.loss_scale import LossScale
from gpucnn.training.metrics import Metric
from gpucnn.training.step import LossFunction, apply_gradients, batch_gradients

STOPS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Shards:
    """The division of every batch into ``count`` contiguous shards, and which of them this process has: an aligned run.

    If the batch does not divide evenly, the first shards have one image more; if it is too small, the last have none. count:
    a power of two that the number of processes divides; by default that number. Raises ParameterError.

    >>> shards = Shards(Communicator(), 4)
    >>> shards.bounds(10), shards.own, shards.part(10)
    ([0, 3, 6, 8, 10], range(0, 4), slice(0, 10, None))
    """

    def __init__(self, comm: Communicator, count: int | None = None) -> None:
        self.comm, self.count = comm, comm.size if count is None else count
        if not is_count(self.count, 1, MOST_SHARDS) or self.count & (self.count - 1):
            raise ParameterError.expected("shards", "count", f"a power of two up to {MOST_SHARDS}", repr(count))
        if self.count % comm.size:
            remedy = f"start {self.count} processes or fewer, or choose more shards"
            raise ParameterError.expected(
                "shards", "processes", f"a divisor of {self.count} shards", f"{comm.size}", remedy
            )
        each = self.count // comm.size
        self.own = range(comm.rank * each, (comm.rank + 1) * each)

    def bounds(self, images: int) -> list[int]:
        """Return the index at which each shard of a batch begins, and the end."""
        each, more = divmod(images, self.count)
        return [shard * each + min(shard, more) for shard in range(self.count + 1)]

    def part(self, images: int) -> slice:
        """Return the images of a batch that are this process's."""
        bounds = self.bounds(images)
        return slice(bounds[self.own.start], bounds[self.own.stop])


class TreeSum:
    """The sum, in a binary tree, of lists of arrays that come one after the other; ``count`` of them, a power of two."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sums: list[tuple[int, list[Array]]] = []

    def add(self, arrays: Sequence[Array], keep: bool) -> None:
        """Add the next arrays. keep: their memory may be changed and kept; otherwise what is kept is a copy."""
        level, own = 0, list(arrays)
        while self._sums and self._sums[-1][0] == level:
            left = self._sums.pop()[1]
            for target, array in zip(left, own, strict=True):
                ops.add_to(self._backend, target, array)
            own, keep, level = left, True, level + 1
        self._sums.append((level, own if keep else [ops.copy(self._backend, array) for array in own]))

    def result(self) -> list[Array]:
        """Return the sums."""
        ((_, arrays),) = self._sums
        return arrays


class Gradients:
    """The gradients of parameters as few flat arrays: those of the optimiser's stores where there are any.

    float16 gradients are added in float32.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        listed = list(parameters)
        stores = {id(p.store): p.store for p in listed if p.store is not None}
        kinds: dict[Any, list[Parameter]] = {}
        for p in listed:
            if p.store is None:
                kinds.setdefault(str(p.dtype), []).append(p)
        self._stores, self._loose = list(stores.values()), list(kinds.values())
        self.parameters = [p for store in self._stores for p in store.parameters]
        self.parameters += [p for some in self._loose for p in some]

    def present(self) -> list[float]:
        """Return 1 for each parameter that has a gradient, and 0 for the others."""
        return [float(p.grad is not None) for p in self.parameters]

    def flat(self) -> list[Array]:
        """Return the gradients, zeros where there are none; arrays of stores are their own memory."""
        arrays = []
        for store in self._stores:
            for p, span in store.spans():
                if p.grad is None:
                    ops.assign(store.backend, store.gradients, span, 0)
            arrays.append(store.gradients)
        for some in self._loose:
            backend = some[0].backend
            parts = [
                ops.zeros(backend, p.size, p.dtype) if p.grad is None else ops.reshape(backend, p.grad.array, (-1,))
                for p in some
            ]
            arrays.append(ops.concatenate(backend, parts, 0))
        backend = self.parameters[0].backend
        return [ops.cast(backend, a, "float32") if str(a.dtype) == "float16" else a for a in arrays]

    def set(self, arrays: Sequence[Array], present: Sequence[float]) -> None:
        """Give the parameters these gradients; none where ``present`` is 0."""
        flags = iter(present)
        for store, array in zip(self._stores, arrays, strict=False):
            if array is not store.gradients:
                ops.fill(store.backend, store.gradients, ops.cast(store.backend, array, store.gradients.dtype))
            for p in store.parameters:
                if next(flags):
                    p.fill_gradient_room()
                else:
                    p.clear_grad()
        for some, array in zip(self._loose, arrays[len(self._stores) :], strict=True):
            start = 0
            for p in some:
                span = slice(start, start + p.size)
                start = span.stop
                values = ops.reshape(p.backend, ops.index(p.backend, array, span), p.shape)
                p.grad = p.like(ops.cast(p.backend, values, p.dtype)) if next(flags) else None


class _Buffers:
    """A network's buffers: each shard starts from the same, and what it changed is averaged, weighted by images.

    Integers, such as the count of batches, change as they do for the first shard.
    """

    def __init__(self, net: Module) -> None:
        self._all = list(net.buffers())
        self._before = [buffer.clone() for buffer in self._all]

    def restore(self) -> None:
        for buffer, before in zip(self._all, self._before, strict=True):
            buffer.copy_(before)

    def changes(self, weight: float, first: bool) -> Iterator[Tensor]:
        for buffer, before in zip(self._all, self._before, strict=True):
            change = buffer.to("float64") - before.to("float64")
            yield change * (weight if buffer.dtype.kind == "f" else float(first))

    def change(self, changes: Iterator[Tensor]) -> None:
        for buffer, before in zip(self._all, self._before, strict=True):
            change = next(changes).reshape(*buffer.shape)
            buffer.copy_((before.to("float64") + change).to(str(buffer.dtype)))

    def sizes(self) -> list[int]:
        return [buffer.size for buffer in self._all]


def check_sharded(net: Module) -> None:
    """ParameterError for a network whose dropout draws from a generator of its own: each shard draws from its own."""
    for name, layer in net.named_modules():
        if isinstance(layer, Dropout) and layer.generator is not None:
            raise ParameterError.expected("shards", f"layer {name}", "dropout without a generator of its own", "one")


def draws_of(seed: int, step: int, shard: int) -> Generator:
    """Return the generator that a shard of a step draws from.

    >>> draws_of(7, 0, 1).next_key() == draws_of(7, 0, 2).next_key()
    False
    """
    return Generator(seed, (step + 1) << 28 | shard << 16)


def sharded_step(
    shards: Shards,
    net: Module,
    loss_fn: LossFunction,
    optimizer: Any,
    x: Tensor,
    y: Tensor,
    count: int,
    draws: tuple[int, int],
    scale: LossScale | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    metrics: Sequence[Metric] = (),
    stop: int | None = None,
) -> int | None:
    """Do one step on a batch of ``count`` images, of which ``x`` and ``y`` are this process's, and update the metrics.

    draws: seed and number of the step, for dropout. stop: the signal that this process got; the one that any of them got is
    returned, the same in all.
    """
    gradients = Gradients(_parameters(net, optimizer))
    backend = gradients.parameters[0].backend
    bounds = shards.bounds(count)
    offset = bounds[shards.own.start]
    large, small = TreeSum(backend), TreeSum(backend)
    with no_grad():
        buffers, running = _Buffers(net), [metric.sums.clone() for metric in metrics]
    for shard in shards.own:
        first, last = bounds[shard], bounds[shard + 1]
        optimizer.zero_grad()
        with no_grad():
            buffers.restore()
            for metric in metrics:
                metric.sums.copy_(tensor([0.0] * metric.sums.size, device=backend).reshape(*metric.sums.shape))
        weight = (last - first) / count if count else 0.0
        loss = tensor(0.0, device=backend)
        if last > first:
            own = slice(first - offset, last - offset)
            part, targets = (x, y) if own == slice(0, len(x)) else (x[own], y[own])
            with drawing_from(draws_of(*draws, shard)):
                loss, logits = batch_gradients(net, loss_fn, part, targets, scale, accumulate, weight)
            for metric in metrics:
                metric.update(loss / weight if weight != 1 else loss, logits, targets)
        with no_grad():
            parts = [loss.detach().to("float64").reshape(1)]
            parts += [_weighted(metric, weight).reshape(-1) for metric in metrics]
            parts += [change.reshape(-1) for change in buffers.changes(weight, shard == 0)]
            flags = gradients.present()
            flags += [float(stop == number and shard == shards.own.start) for number in STOPS]
            parts.append(tensor(flags, "float64", backend))
            small.add([concatenate(parts).array], keep=True)
        large.add(gradients.flat(), keep=len(shards.own) == 1)
    (numbers,), sums = small.result(), large.result()
    for array in (numbers, *sums):
        shards.comm.all_reduce(array)
    with no_grad():
        lengths = [1, *(metric.sums.size for metric in metrics), *buffers.sizes()]
        whole = Tensor(numbers, backend)
        flags = whole[sum(lengths) :].tolist()
        pieces = _pieces(whole, lengths)
        loss = next(pieces).reshape(()).to("float32")
        for metric, before in zip(metrics, running, strict=True):
            _add_batch(metric, before, next(pieces).reshape(*metric.sums.shape))
        buffers.change(pieces)
    gradients.set(sums, flags[: len(gradients.parameters)])
    apply_gradients(net, optimizer, loss, scale, clip_norm)
    return next((number for number, flag in zip(STOPS, flags[-len(STOPS) :], strict=True) if flag), None)


def _parameters(net: Module, optimizer: Any) -> list[Parameter]:
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        return list(net.parameters())
    return [p for group in groups for p in group["params"]]


def _weighted(metric: Metric, weight: float) -> Tensor:
    """Return a shard's sums; the loss of the last batch among them is its part of the batch's."""
    if metric.last_at is None:
        return metric.sums
    sums = metric.sums.clone()
    sums[metric.last_at] = sums[metric.last_at] * weight
    return sums


def _add_batch(metric: Metric, before: Tensor, batch: Tensor) -> None:
    total = before + batch
    if metric.last_at is not None:
        total[metric.last_at] = batch[metric.last_at]
    metric.sums.copy_(total)


def _pieces(whole: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
    start = 0
    for length in lengths:
        yield whole[start : start + length]
        start += length
