"""The base class of optimisers: parameter groups, flat buffers, and state by name.

Parameters and their gradients are views of flat arrays, one ``ParameterStore`` per group, device and dtype. So one update
covers all parameters of a group.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from gpucnn.autograd import Parameter, Tensor
from gpucnn.backend import Array, ops
from gpucnn.checks import check_flag, is_number, python_number
from gpucnn.errors import CheckpointError, ParameterError, ShapeError
from gpucnn.optim.flat import FlatBuffer, Segment
from gpucnn.optim.own_state import is_own, packed, unpacked

Params = Iterable[Parameter] | Iterable[tuple[str, Parameter]] | Iterable[dict[str, Any]]


class Optimizer:
    """Base class of the optimisers. ``param_groups`` is a list of dicts of hyper-parameters, which may change between steps,
    and of the parameters, ``group["params"]``.

    An optimiser of your own overrides ``step``, as in PyTorch, and changes the parameters in place; ``state[p]`` is a dict
    for its state of each parameter: Tensors and numbers, which ``state_dict`` and checkpoints include.

    ``params``: parameters; (name, parameter) pairs as from ``model.named_parameters()``, whose names the state then uses;
    or dicts with a "params" entry and their own hyper-parameters.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> class Descent(Optimizer):
    ...     @gpucnn.no_grad()
    ...     def step(self):
    ...         for group in self.param_groups:
    ...             for p in group["params"]:
    ...                 if p.grad is not None:
    ...                     p -= group["lr"] * p.grad
    >>> p = nn.Parameter(gpucnn.tensor([1.0]))
    >>> (p * 2).sum().backward()
    >>> Descent([p], {"lr": 0.25}).step()
    >>> p.tolist()
    [0.5]
    """

    slots: tuple[str, ...] = ()
    counts_steps = False
    """Whether the update of a parameter depends on the number of its updates."""

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: defaultdict[Parameter, dict[str, Any]] = defaultdict(dict)
        self._buffers: list[list[FlatBuffer]] = []
        self.steps = 0
        self._add(_as_groups(params), _Members(set(), set()))

    def _add(self, groups: list[dict[str, Any]], known: _Members) -> None:
        """Check and add groups; an error adds none and moves no parameter."""
        where, added, members = type(self).__name__, [], []
        for group in groups:
            named = []
            for entry in group["params"]:
                usual = str(len(known.parameters))
                name, parameter = entry if isinstance(entry, tuple) and len(entry) == 2 else (usual, entry)
                if not isinstance(parameter, Parameter):
                    raise ParameterError.expected(where, "params", "Parameters", type(parameter).__name__)
                if id(parameter) in known.parameters:
                    raise ParameterError.expected(where, "params", "each parameter once", f"{name} twice")
                if name in known.names:
                    raise ParameterError.expected(where, "params", "each name once", f"{name!r} twice")
                known.parameters.add(id(parameter))
                known.names.add(name)
                named.append((name, parameter))
            unknown = group.keys() - self.defaults.keys() - {"params"}
            if unknown:
                words = f"options among {sorted(self.defaults)}"
                raise ParameterError.expected(where, "group", words, f"{sorted(unknown)}")
            settings = {key: _plain(value) for key, value in {**self.defaults, **group}.items() if key != "params"}
            self.check(settings)
            added.append({"params": [parameter for _, parameter in named], **settings})
            members.append(named)
        if not known.parameters:
            raise ParameterError.expected(where, "params", "at least one parameter", "none")
        self._buffers.extend(self._flatten(named) for named in members)
        self.param_groups.extend(added)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, a dict with "params" and its own hyper-parameters: for layers that are unfrozen later, for example.

        Make a schedule afterwards. ParameterError, without any change, for parameters that the optimiser already has.
        """
        segments = [segment for _, segment in self._segments()]
        known = _Members({id(one.parameter) for one in segments}, {one.name for one in segments})
        if not isinstance(param_group, dict) or "params" not in param_group:
            got = type(param_group).__name__
            raise ParameterError.expected("add_param_group", "param_group", "a dict with 'params'", got)
        self._add(_as_groups([param_group]), known)

    def has_own_step(self) -> bool:
        """Whether a subclass has a ``step`` of its own, which takes no condition and no scale."""
        return type(self).step is not Optimizer.step

    def check(self, settings: dict[str, Any]) -> None:
        """Raise ParameterError for a hyper-parameter out of range."""
        for key, low, high in (("lr", 0, None), ("weight_decay", 0, None), ("momentum", 0, None), ("eps", 0, None)):
            if key in settings:
                check_number(settings[key], type(self).__name__, key, low, high)
        for key in ("maximize", "amsgrad"):
            if key in settings:
                check_flag(settings[key], type(self).__name__, key)

    def fixed(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the hyper-parameters that a captured step fixes: all but ``rates``, which it reads from the device."""
        return {**hyper_parameters(group), "lr": None}

    def rates(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the hyper-parameters that a captured step reads from the device, at most two. Schedules change them."""
        return (group["lr"],)

    def with_rates(self, group: dict[str, Any], rates: Sequence[Any]) -> dict[str, Any]:
        """Return a group's hyper-parameters with ``rates`` substituted."""
        return {**group, "lr": rates[0]}

    def _flatten(self, named: list[tuple[str, Parameter]]) -> list[FlatBuffer]:
        kinds: dict[tuple[Any, ...], list[tuple[str, Parameter]]] = {}
        for name, p in named:
            kinds.setdefault((p.device, str(p.dtype), p.lr_multiplier, p.l1, p.l2), []).append((name, p))
        return [FlatBuffer(some, self.slots, self.counts_steps) for some in kinds.values()]

    def _segments(self) -> Iterator[tuple[FlatBuffer, Segment]]:
        for buffers in self._buffers:
            for buffer in buffers:
                for segment in buffer.segments:
                    yield buffer, segment

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients or, with set_to_none=False, fill existing ones with zeros. The memory is kept."""
        for _, segment in self._segments():
            segment.parameter.clear_grad(set_to_none)

    def gradients(self) -> list[Array]:
        """Return the existing gradients as flat arrays, each of several parameters. GraphError as in ``step``."""
        self.take_back()
        flat = (buffer for buffers in self._buffers for buffer in buffers)
        return [buffer.store.gradients[span] for buffer in flat for span in buffer.present()]

    def step(self, where: Tensor | None = None, scale: Tensor | None = None) -> None:
        """Update every parameter that has a gradient. ``where``: a 0-d bool Tensor; if it is false, nothing changes.

        ``scale``: a 0-d float32 Tensor, the factor of the loss. The gradients are divided by it first.

        On a GPU ``steps`` also counts a step with a false ``where``, because reading it would synchronise. The updates of
        each parameter (for Adam's bias correction) are counted correctly. GraphError if the parameters were moved to
        another device or dtype since the optimiser was made.
        """
        self.take_back()
        if where is not None and where.device == "cpu" and not where.item():
            return
        self.steps += 1
        self.take_over_changes()
        condition = True if where is None else where.array
        captures = {id(b.backend): b.backend.capture_state for buffers in self._buffers for b in buffers}
        for capture in captures.values():
            if capture is not None:
                present = [segment.parameter for _, segment in self._segments() if segment.parameter.grad is not None]
                capture.note_step(self, partial(self._replayed, present))
        for group, buffers in zip(self.param_groups, self._buffers, strict=True):
            for buffer in buffers:
                settings, capture = buffer.settings(hyper_parameters(group)), captures[id(buffer.backend)]
                buffer.maximize = settings.pop("maximize", False)
                if capture is not None:
                    rates = buffer.rates_for_capture(self.rates(settings))
                    settings = self.with_rates(settings, rates) if capture.mode == "capture" else settings
                buffer.note_change()
                for span, step in buffer.spans(self.steps):
                    buffer.take_gradient(span, None if scale is None else scale.array)
                    self.update(buffer, span, step, settings, condition)
                    buffer.show(span)

    def take_back(self) -> None:
        """Move parameters that another optimiser took back into this optimiser's stores; GraphError as in ``step``."""
        for buffers in self._buffers:
            for buffer in buffers:
                buffer.take_back(f"{type(self).__name__}.step")

    def take_over_changes(self) -> None:
        """Copy float16 parameters changed from outside into their masters, so that the next step starts from them."""
        for buffers in self._buffers:
            for buffer in buffers:
                buffer.take_over_changes()

    def _replayed(self, present: list[Parameter]) -> None:
        """Do the host's part of a replayed step. The parameters in ``present`` had a gradient when it was captured."""
        self.zero_grad()
        for parameter in present:
            parameter.fill_gradient_room()
        self.steps += 1
        self.take_over_changes()
        for group, buffers in zip(self.param_groups, self._buffers, strict=True):
            for buffer in buffers:
                buffer.send(self.rates(buffer.settings(hyper_parameters(group))))
                buffer.note_change()
                for _ in buffer.spans(self.steps):
                    pass

    def update(
        self, buffer: FlatBuffer, span: slice, step: int | Array, group: dict[str, Any], where: Array | bool
    ) -> None:
        """Update one span of a flat buffer in place. ``step``: see ``FlatBuffer.spans``; ``group``: hyper-parameters."""
        raise NotImplementedError

    # --- copies --------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        members = [[(s.name, s.parameter) for b in buffers for s in b.segments] for buffers in self._buffers]
        rest = {key: value for key, value in self.__dict__.items() if key != "_buffers"}
        return {"rest": rest, "members": members, "state": self.state_dict()}

    def __setstate__(self, copied: dict[str, Any]) -> None:
        """Restore a copy, which updates the copies of the parameters."""
        self.__dict__.update(copied["rest"])
        self._buffers = [self._flatten(named) for named in copied["members"]]
        self.load_state_dict(copied["state"])

    # --- state ---------------------------------------------------------------------------------------------------

    def state_arrays(self) -> dict[str, Any]:
        """Return {"slot.parameter name": NumPy copy} of all state, in registration order; steps as "step.name".

        Tensors and numbers that a subclass keeps in ``state[p]`` are named "own:key:name"; ParameterError for other values.
        """
        arrays = packed(self.state, (segment for _, segment in self._segments()))
        for buffer in itertools.chain(*self._buffers):
            for segment, count in zip(buffer.segments, buffer.step_counts(), strict=True):
                for slot, state in buffer.state.items():
                    values = buffer.backend.to_host(state[segment.start : segment.stop])
                    arrays[f"{slot}.{segment.name}"] = values.reshape(segment.parameter.shape)
                if self.counts_steps:
                    arrays[f"step.{segment.name}"] = buffer.backend.to_host(buffer.backend.asarray(count, "int64"))
        return arrays

    def state_dict(self) -> dict[str, Any]:
        """Return {"steps", "param_groups", "state"}: numbers, and NumPy copies by slot and parameter name."""
        groups = [{k: _plain(value) for k, value in hyper_parameters(group).items()} for group in self.param_groups]
        return {"steps": self.steps, "param_groups": groups, "state": self.state_arrays()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned; CheckpointError, without any change, if it does not match."""
        where = f"{type(self).__name__}.load_state_dict"
        try:
            arrays, groups, steps = dict(state["state"]), list(state["param_groups"]), int(state["steps"])
            groups = [{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()} for one in groups]  # of JSON
            for group, loaded in zip(self.param_groups, groups, strict=True):
                known = hyper_parameters(group)
                if loaded.keys() - known.keys():
                    raise ParameterError(f"unknown options {sorted(loaded.keys() - known.keys())}")
                self.check({**known, **loaded})
            own = {name: arrays.pop(name) for name in list(arrays) if is_own(name)}
            kept = unpacked(own, (segment for _, segment in self._segments()))
            values = {name: self._fitting(name, arrays.pop(name, None), like) for name, like in self._state_like()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError.expected(
                where, "state", "that of the same optimiser and model", repr(error)
            ) from None
        if arrays:
            raise CheckpointError.expected(where, "state", "that of the same optimiser and model", sorted(arrays)[:3])
        for group, loaded in zip(self.param_groups, groups, strict=True):
            group.update(loaded)
        self.state.clear()
        self.state.update(kept)
        for buffer in itertools.chain(*self._buffers):
            for segment in buffer.segments:
                span = slice(segment.start, segment.stop)
                for slot, held in buffer.state.items():
                    ops.assign(buffer.backend, held, span, values[f"{slot}.{segment.name}"].reshape(-1))
                buffer.show(span)
            if self.counts_steps:
                buffer.set_step_counts(
                    [int(buffer.backend.item(values[f"step.{segment.name}"])) for segment in buffer.segments]
                )
            buffer.note_change()
        self.steps = steps

    def _state_like(self) -> Iterator[tuple[str, tuple[FlatBuffer, tuple[int, ...], Any]]]:
        """Yield the name of each state array with its buffer, shape and dtype."""
        for buffer, segment in self._segments():
            for slot in buffer.state:
                yield f"{slot}.{segment.name}", (buffer, segment.parameter.shape, buffer.values.dtype)
            if self.counts_steps:
                yield f"step.{segment.name}", (buffer, (), "int64")

    @staticmethod
    def _fitting(name: str, array: Any, like: tuple[FlatBuffer, tuple[int, ...], Any]) -> Array:
        buffer, shape, dtype = like
        found = getattr(array, "shape", None)
        if found is None or tuple(found) != shape:
            raise ShapeError(f"{name}: expected shape {shape}, got {type(array).__name__ if found is None else found}")
        return buffer.backend.asarray(array, dtype)

    def __repr__(self) -> str:
        groups = (
            ", ".join(f"{key}={value!r}" for key, value in hyper_parameters(group).items())
            for group in self.param_groups
        )
        return f"{type(self).__name__}({'; '.join(groups)})"


class _Members(NamedTuple):
    """The parameters that an optimiser has: their ids and names."""

    parameters: set[int]
    names: set[str]


def hyper_parameters(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group without its parameters.

    >>> hyper_parameters({"params": [], "lr": 0.1})
    {'lr': 0.1}
    """
    return {key: value for key, value in group.items() if key != "params"}


def _plain(value: Any) -> Any:
    """Convert NumPy's numbers, and tuples of them, to Python's, which JSON can store."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return python_number(value) if is_number(value) else value


def _as_groups(params: Any) -> list[dict[str, Any]]:
    if isinstance(params, Tensor):
        raise ParameterError.expected("optimizer", "params", "a list of parameters", "one Tensor", "write [parameter]")
    if isinstance(params, Mapping) or not isinstance(params, Iterable):
        raise ParameterError.expected(
            "optimizer", "params", "a list of parameters", type(params).__name__, "pass model.parameters()"
        )
    entries = list(params)
    if not any(isinstance(entry, dict) for entry in entries):
        return [{"params": entries}]
    for entry in entries:
        if not isinstance(entry, dict) or "params" not in entry:
            raise ParameterError.expected(
                "optimizer", "params", "groups that are dicts with 'params'", type(entry).__name__
            )
    return [{**entry, **_as_groups(entry["params"])[0]} for entry in entries]


def check_number(value: Any, where: str, argument: str, low: float, high: float | None) -> None:
    """Raise ParameterError unless ``value`` is a finite number with low <= value (and < high, if given)."""
    if not is_number(value) or not low <= value < (math.inf if high is None else high):
        limit = f"a finite number of at least {low}" if high is None else f"a number of at least {low} and below {high}"
        raise ParameterError.expected(where, argument, limit, repr(value))
