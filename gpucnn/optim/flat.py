"""The flat arrays that an optimiser's updates run over: values, gradients and state of parameters of one kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gpucnn.autograd import Parameter, store_of
from gpucnn.backend import Array, Backend, ops
from gpucnn.errors import GraphError


@dataclass
class Segment:
    """The span of one parameter in a flat buffer."""

    name: str
    parameter: Parameter
    start: int
    stop: int
    seen: int = 0
    """The version of the parameter's values that the float32 master has."""
    steps: int = 0
    """The number of updates of this parameter: fewer than the optimiser's if it was unused or frozen for a while.

    A device that captures counts them itself (``FlatBuffer.counts``).
    """
    history: int = 0
    """A hash that is equal for parameters that took part in the same steps."""


class FlatBuffer:
    """Values, gradients and optimiser state of similar parameters, each as one 1-D array.

    They have the same device, dtype, learning-rate multiplier and decay. For float16 parameters, ``values`` and
    ``gradients`` are float32 copies, on which updates run; the store has the parameters' float16 arrays. The values are
    then part of the state, as ``master``: float16 alone would lose small steps.
    """

    def __init__(self, named: list[tuple[str, Parameter]], slots: Iterable[str], counts_steps: bool) -> None:
        first = named[0][1]
        self.backend: Backend = first.backend
        self.lr_multiplier, self.l1, self.l2 = first.lr_multiplier, first.l1, first.l2
        self.store = store_of([parameter for _, parameter in named])
        self.segments = [
            Segment(name, parameter, span.start, span.stop, -1)
            for (name, _), (parameter, span) in zip(named, self.store.spans(), strict=True)
        ]
        self.is_half = str(first.dtype) == "float16"
        total = self.store.values.size
        if self.is_half:
            self._master, self._wide = (ops.zeros(self.backend, total, "float32") for _ in range(2))
        self.state: dict[str, Array] = {slot: ops.zeros(self.backend, total, self.values.dtype) for slot in slots}
        if self.is_half:
            self.state["master"] = self._master
        on_device = counts_steps and self.backend.captures
        self.counts: Array | None = ops.zeros(self.backend, len(self.segments), "float64") if on_device else None
        """On a device that captures, the number of updates of each parameter, without those whose condition was false."""
        self.maximize = False
        """Whether the next update goes up the gradient, as its group says."""
        self._rates: Array | None = None
        self._sent: tuple[float, ...] | None = None
        self.take_over_changes()

    @property
    def values(self) -> Array:
        """The array that updates change: the parameters' own memory, or the float32 master of float16 parameters."""
        return self._master if self.is_half else self.store.values

    @property
    def gradients(self) -> Array:
        """The array that updates read, with the dtype of ``values``."""
        return self._wide if self.is_half else self.store.gradients

    def take_back(self, where: str) -> None:
        """Move parameters back that another optimiser took out of the store; GraphError if they changed device or dtype."""
        if self.store.holds_all():
            return
        for segment in self.segments:
            parameter = segment.parameter
            if parameter.backend is not self.backend or parameter.dtype != self.store.values.dtype:
                was = f"{self.backend.name} {self.store.values.dtype}"
                raise GraphError(
                    f"{where}: parameter {segment.name} was moved from {was} to {parameter.device} {parameter.dtype}. "
                    "Make the optimiser after model.to(...)."
                )
        self.store = store_of([segment.parameter for segment in self.segments])

    def take_over_changes(self) -> None:
        """Copy float16 values changed from outside into the master, except where the master rounds to them."""
        if not self.is_half:
            return
        for segment in self.segments:
            if segment.parameter.version.count != segment.seen:
                span = slice(segment.start, segment.stop)
                ops.follow_rounded(self.backend, self.values, self.store.values, span)
                segment.seen = segment.parameter.version.count

    def note_change(self) -> None:
        """Note that the values of all parameters are about to change."""
        for segment in self.segments:
            segment.parameter.note_change()
            segment.seen = segment.parameter.version.count

    def show(self, span: slice) -> None:
        """Round the new values of a span into its float16 parameters."""
        if self.is_half:
            ops.copy_span(self.backend, self.store.values, self.values, span)

    def take_gradient(self, span: slice, scale: Array | None) -> None:
        """Widen the gradient of a span of float16 parameters, and divide it by the loss scale, if there is one."""
        if self.is_half:
            ops.copy_span(self.backend, self.gradients, self.store.gradients, span)
        if scale is not None:
            ops.divide_span(self.backend, self.gradients, span, scale)

    def gradient(self, span: slice) -> Array:
        """Return the gradient of a span, or with ``maximize`` minus it, plus these parameters' own decay."""
        g, p = self.gradients[span], self.values[span]
        if self.maximize:
            g = ops.negative(self.backend, g)
        if self.l1:
            g = ops.add_sign(self.backend, g, p, self.l1)
        return ops.add_scaled(self.backend, g, p, self.l2) if self.l2 else g

    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return a group's hyper-parameters with these parameters' learning rate."""
        return group if self.lr_multiplier == 1 else {**group, "lr": group["lr"] * self.lr_multiplier}

    def rates_for_capture(self, rates: tuple[float, ...]) -> list[Array]:
        """Return the (1,) float64 arrays from which a captured step reads ``rates``; ``send`` writes them."""
        if self._rates is None:
            self._rates = ops.empty(self.backend, 2, "float64")
        return [self._rates[i : i + 1] for i in range(len(rates))]

    def send(self, rates: tuple[float, ...]) -> None:
        """Write ``rates`` to the arrays from which a captured step reads them, if they changed."""
        if rates != self._sent and self._rates is not None:
            ops.set_numbers(self.backend, self._rates, rates)
            self._sent = rates

    def spans(self, asked: int) -> Iterator[tuple[slice, int | Array]]:
        """Count a step of each parameter that has a gradient; yield the spans of parameters with an equal count.

        Usually there is one span, the whole buffer. Each comes with its number of updates including this one or, on a
        device that counts, with the array of the counts so far. asked: the number of the step.
        """
        stepped = [(i, segment) for i, segment in enumerate(self.segments) if segment.parameter.grad is not None]
        for _, segment in stepped:
            segment.steps += 1
            segment.history = hash((segment.history, asked)) if self.counts is not None else segment.steps
        first = 0
        for last in range(len(stepped)):
            i, segment = stepped[last]
            if last + 1 < len(stepped):
                following = stepped[last + 1][1]
                if following.start == segment.stop and following.history == segment.history:
                    continue
            span = slice(stepped[first][1].start, segment.stop)
            yield span, segment.steps if self.counts is None else self.counts[stepped[first][0] : i + 1]
            first = last + 1

    def present(self) -> Iterator[slice]:
        """Yield the spans of parameters that have a gradient, neighbours as one."""
        span: slice | None = None
        for segment in self.segments:
            if segment.parameter.grad is None:
                continue
            if span is not None and span.stop != segment.start:
                yield span
                span = None
            span = slice(segment.start if span is None else span.start, segment.stop)
        if span is not None:
            yield span

    def step_counts(self) -> list[int]:
        """Return the number of updates of each parameter. Reading them synchronises the device."""
        if self.counts is None:
            return [segment.steps for segment in self.segments]
        return [int(count) for count in self.backend.to_host(self.counts)]

    def set_step_counts(self, counts: Sequence[int]) -> None:
        """Restore the counts that ``step_counts`` returned."""
        for segment, count in zip(self.segments, counts, strict=True):
            segment.steps = segment.history = count
        if self.counts is not None:
            ops.fill(self.backend, self.counts, self.backend.asarray(counts, "float64"))

    def arrays(self) -> list[Array]:
        """Return the arrays that a step changes, other than the parameters and their gradients."""
        return [*self.state.values(), *([] if self.counts is None else [self.counts])]
