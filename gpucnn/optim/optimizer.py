"""What all optimisers share: parameter groups, flat buffers, state by name.

An optimiser owns flat buffers, one set per group, device and dtype. Parameters and their gradients become views of
them, so that one update runs over all parameters of a group at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpucnn.autograd import Parameter, Tensor
from gpucnn.backend import Array, Backend
from gpucnn.errors import CheckpointError, GraphError, ParameterError

Params = Iterable[Parameter] | Iterable[tuple[str, Parameter]] | Iterable[dict[str, Any]]


@dataclass
class Segment:
    """One parameter's place in a flat buffer."""

    name: str
    parameter: Parameter
    start: int
    stop: int


class FlatBuffer:
    """Values, gradients and optimiser state of parameters of one device and dtype, each one 1-D array."""

    def __init__(
        self, owner: object, backend: Backend, named: list[tuple[str, Parameter]], slots: Iterable[str]
    ) -> None:
        self.backend = backend
        self.segments: list[Segment] = []
        total = sum(parameter.size for _, parameter in named)
        dtype = named[0][1].dtype
        with backend.active():
            self.values, self.gradients = backend.xp.zeros(total, dtype), backend.xp.zeros(total, dtype)
            self.state: dict[str, Array] = {slot: backend.xp.zeros(total, dtype) for slot in slots}
            start = 0
            for name, parameter in named:
                stop, shape = start + parameter.size, parameter.shape
                parameter.bind(owner, self.values[start:stop].reshape(shape), self.gradients[start:stop].reshape(shape))
                self.segments.append(Segment(name, parameter, start, stop))
                start = stop

    def spans(self) -> Iterator[slice]:
        """Yield the stretches of the buffer whose parameters have a gradient: all of it, as a rule."""
        start = stop = 0
        for segment in self.segments:
            if segment.parameter.grad is None:
                if stop > start:
                    yield slice(start, stop)
                start = segment.stop
            stop = segment.stop
        if stop > start:
            yield slice(start, stop)


class Optimizer:
    """Base of the optimisers. ``param_groups`` is a list of dicts of hyper-parameters that may be changed between steps.

    ``params``: parameters, (name, parameter) pairs as from ``model.named_parameters()`` (state is then kept under those
    names), or dicts with a "params" entry and hyper-parameters of their own.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self._buffers: list[list[FlatBuffer]] = []
        self.steps = 0
        seen: set[int] = set()
        count = 0
        for group in _as_groups(params):
            named = []
            for entry in group.pop("params"):
                name, parameter = entry if isinstance(entry, tuple) else (str(count), entry)
                if not isinstance(parameter, Parameter):
                    raise ParameterError.expected(type(self).__name__, "params", "Parameters", type(parameter).__name__)
                if id(parameter) in seen:
                    raise ParameterError.expected(type(self).__name__, "params", "each parameter once", f"{name} twice")
                seen.add(id(parameter))
                named.append((name, parameter))
                count += 1
            unknown = group.keys() - defaults.keys()
            if unknown:
                raise ParameterError.expected(
                    type(self).__name__, "group", f"options among {sorted(defaults)}", f"{sorted(unknown)}"
                )
            settings = {**defaults, **group}
            self.check(settings)
            self.param_groups.append(settings)
            self._buffers.append(self._flatten(named))
        if not count:
            raise ParameterError.expected(type(self).__name__, "params", "at least one parameter", "none")

    def check(self, settings: dict[str, Any]) -> None:
        """ParameterError for a hyper-parameter out of its range."""
        for key, low, high in (("lr", 0, None), ("weight_decay", 0, None), ("momentum", 0, None), ("eps", 0, None)):
            if key in settings:
                check_number(settings[key], type(self).__name__, key, low, high)

    def _flatten(self, named: list[tuple[str, Parameter]]) -> list[FlatBuffer]:
        kinds: dict[tuple[str, str], list[tuple[str, Parameter]]] = {}
        for name, parameter in named:
            kinds.setdefault((parameter.device, str(parameter.dtype)), []).append((name, parameter))
        return [FlatBuffer(self, some[0][1].backend, some, self.slots) for some in kinds.values()]

    def _segments(self) -> Iterator[tuple[FlatBuffer, Segment]]:
        for buffers in self._buffers:
            for buffer in buffers:
                for segment in buffer.segments:
                    yield buffer, segment

    def zero_grad(self) -> None:
        """Forget all gradients; the memory stays bound."""
        for _, segment in self._segments():
            segment.parameter.grad = None

    def step(self, where: Tensor | None = None) -> None:
        """Update every parameter that has a gradient. ``where``, a 0-d bool Tensor, if given: false changes nothing.

        GraphError where another optimiser has taken the parameters over since.
        """
        self.steps += 1
        condition = True if where is None else where.array
        for group, buffers in zip(self.param_groups, self._buffers, strict=True):
            for buffer in buffers:
                for segment in buffer.segments:
                    if segment.parameter.owner is not self:
                        raise GraphError(
                            f"{type(self).__name__}.step: parameter {segment.name} was moved, or belongs to a newer "
                            "optimiser. Make the optimiser after model.to(...), and use only the newest."
                        )
                    segment.parameter.note_change()
                with buffer.backend.active():
                    for span in buffer.spans():
                        self.update(buffer, span, group, condition)

    def update(self, buffer: FlatBuffer, span: slice, group: dict[str, Any], where: Array | bool) -> None:
        """Update one stretch of a flat buffer in place."""
        raise NotImplementedError

    # --- state ---------------------------------------------------------------------------------------------------

    def state_arrays(self) -> dict[str, Any]:
        """Return {"slot.parameter name": NumPy copy} of all state, in registration order."""
        return {
            f"{slot}.{segment.name}": buffer.backend.to_host(buffer.state[slot][segment.start : segment.stop]).reshape(
                segment.parameter.shape
            )
            for buffer, segment in self._segments()
            for slot in self.slots
        }

    def state_dict(self) -> dict[str, Any]:
        """Return {"steps", "param_groups", "state"}: numbers, and NumPy copies by slot and parameter name."""
        groups = [dict(group) for group in self.param_groups]
        return {"steps": self.steps, "param_groups": groups, "state": self.state_arrays()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned; CheckpointError, and no change, where it does not fit."""
        own = {
            f"{slot}.{segment.name}": segment.parameter.shape for _, segment in self._segments() for slot in self.slots
        }
        given = {name: tuple(array.shape) for name, array in state["state"].items()}
        if own != given or len(state["param_groups"]) != len(self.param_groups):
            wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
            raise CheckpointError.expected(
                f"{type(self).__name__}.load_state_dict", "state", "that of the same optimiser and model", wrong[:3]
            )
        for group, loaded in zip(self.param_groups, state["param_groups"], strict=True):
            group.update(loaded)
        for buffer, segment in self._segments():
            for slot in self.slots:
                values = buffer.backend.asarray(state["state"][f"{slot}.{segment.name}"]).reshape(-1)
                buffer.state[slot][segment.start : segment.stop] = values
        self.steps = int(state["steps"])

    def __repr__(self) -> str:
        groups = (", ".join(f"{key}={value!r}" for key, value in group.items()) for group in self.param_groups)
        return f"{type(self).__name__}({'; '.join(groups)})"


def _as_groups(params: Any) -> list[dict[str, Any]]:
    if isinstance(params, Tensor):
        raise ParameterError.expected("optimizer", "params", "a list of parameters", "one Tensor", "write [parameter]")
    entries = list(params)
    if entries and isinstance(entries[0], dict):
        return [dict(group) for group in entries]
    return [{"params": entries}]


def check_number(value: Any, where: str, argument: str, low: float, high: float | None) -> None:
    """ParameterError unless ``value`` is a number with low <= value (< high, where given)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value or (high is not None and not value < high):
        limit = f"a number of at least {low}" + ("" if high is None else f" and below {high}")
        raise ParameterError.expected(where, argument, limit, repr(value))
