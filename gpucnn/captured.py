"""Capture: a whole training step is captured as one CUDA graph and replayed, without Python or single launches."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

from gpucnn.autograd import Parameter, Tensor, is_grad_enabled
from gpucnn.backend import Array, Backend, Generator, backend_of, current_generator, default_backend, ops
from gpucnn.errors import CaptureError, ParameterError
from gpucnn.nn import Module
from gpucnn.optim import Optimizer

MOST_GRAPHS = 16
"""The most captured variants of a step (shapes, dtypes, modes). Further variants run without capture."""


Stateful = Module | Optimizer | Generator | Tensor


def capture(step: Callable[..., Any], *owners: Stateful, state: Sequence[Stateful] | None = None) -> Captured:
    """Return ``step`` as a function that captures its GPU launches in the first call and replays them in later calls.

    step: takes Tensors of one device, and hashable values that select a variant of the step. Returns Tensors (in tuples,
    lists, dicts); every call returns new, detached Tensors.
    state: everything that the step reads or changes other than its arguments: modules, optimisers, generators other than
    the process's, and Tensors that it changes in place. ``capture(step, net, optimizer)`` is the same. Without state, the
    step runs without capture, with one warning.
    There is one capture for each combination of shapes, dtypes, modes, attributes of the modules (such as a dropout's
    ``p``), buffers, parameters, and hyper-parameters other than learning rate and momentum (Adam's first beta), which
    schedules change. The first call of each combination runs the step eagerly, captures it, and replays it from the same
    state (parameters, optimiser, generators). It keeps the capture if both results are equal to the last bit. Otherwise,
    or if memory is too small for a capture, it warns and the step keeps running eagerly. A replay runs no Python: what
    ``step`` prints, counts or appends happens only in the first call.
    On the CPU the function is simply called. Raises ParameterError for other kinds of state.

    >>> import gpucnn
    >>> from gpucnn import nn, optim
    >>> net = nn.Linear(2, 1)
    >>> optimizer = optim.SGD(net.parameters(), lr=0.1)
    >>> def step(x):
    ...     optimizer.zero_grad()
    ...     loss = (net(x) * net(x)).sum()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> fast = gpucnn.capture(step, state=[net, optimizer])
    >>> fast(gpucnn.tensor([[1.0, 2.0]])).shape
    ()
    """
    return Captured(step, [*owners, *(state or ())])


class Captured:
    """A step with its captured variants, as ``capture`` returns it."""

    def __init__(self, step: Callable[..., Any], state: Sequence[Stateful]) -> None:
        if not callable(step):
            raise ParameterError.expected("capture", "step", "a function", type(step).__name__)
        for one in state:
            if not isinstance(one, Stateful):
                kinds = "modules, optimisers, generators and Tensors"
                raise ParameterError.expected("capture", "state", kinds, type(one).__name__)
        self._step = step
        self._state = _once(state)
        self._variants: dict[Any, _Variant | None] = {}
        self._memory: dict[str, Any] = {}
        self._warned: set[str] = set()
        self._lock = threading.RLock()  # all replays write to the same memory

    def __call__(self, *arguments: Any) -> Any:
        backend = next(_backends((*arguments, *self._state)), None) or default_backend()
        if not backend.captures or backend.capture_state is not None:  # inside another captured step
            return self._step(*arguments)
        held = _Held(self._state)
        if not self._can_record(backend, held, arguments):
            return self._step(*arguments)
        with self._lock:
            return self._run(backend, held, arguments)

    def _run(self, backend: Backend, held: _Held, arguments: tuple[Any, ...]) -> Any:
        kind = (backend.name, backend.in_tf32, is_grad_enabled(), *map(_kind_of, arguments), *held.kind())
        if kind not in self._variants:
            return self._first(kind, backend, held, arguments)
        captured = self._variants[kind]
        return self._step(*arguments) if captured is None else captured.replay(arguments)

    def _can_record(self, backend: Backend, held: _Held, arguments: tuple[Any, ...]) -> bool:
        if not self._state:
            self._warn("it has no state: pass what it reads and changes, capture(step, state=[net, optimizer])")
            return False
        if any(isinstance(a, Tensor) and (a.backend is not backend or a.requires_grad) for a in arguments):
            return False
        if any(p.store is None and p.grad is not None for p in held.parameters):
            return False  # a replay would add to the array of the capture
        return not any(module.has_hooks() for module in held.modules)  # a replay would not call them

    def _first(self, kind: Any, backend: Backend, held: _Held, arguments: tuple[Any, ...]) -> Any:
        """Run the step eagerly, then capture it and compare a replay from the same state with the eager result."""
        if len(self._variants) >= MOST_GRAPHS:
            self._warn(f"it has more than {MOST_GRAPHS} variants (shapes, dtypes, modes, hyper-parameters)")
            return self._step(*arguments)
        self._variants[kind] = None
        backend.free_memory()  # the graph's memory comes from the driver, not from what other pools keep
        before: Callable[[], None] | None = None
        try:
            before = held.save()
            return self._captured(kind, backend, held, arguments, before)
        except MemoryError as error:  # free memory is less than twice that of the step
            if before is not None:
                before()
            self._warn(f"{type(error).__name__}: {error}")
        # Here, where no traceback holds the arrays of the run that failed.
        backend.free_memory()
        return self._step(*arguments)

    def _captured(
        self, kind: Any, backend: Backend, held: _Held, arguments: tuple[Any, ...], before: Callable[[], None]
    ) -> Any:
        """Return the result of the step, captured if that succeeds; MemoryError if it does not fit beside the copies."""
        if backend.name not in self._memory:
            self._memory[backend.name] = ops.new_graph_memory(backend)
        captured = _Variant(backend, held, arguments, self._memory[backend.name])
        result, stray = captured.observe(self._step)
        after = held.save()
        expected = held.bits(result)
        if stray:
            self._warn(f"it uses {' and '.join(stray)}, which capture does not know: add it to state=[...]", 6)
            return result
        replayed: list[Any] | None = None
        try:
            before()
            captured.capture(self._step)
            if captured.changes_others():
                raise CaptureError("it changes a Tensor that capture does not know: add it to state=[...]")
            before()
            replayed = [captured.replay(arguments)]
            if held.bits(replayed[0]) != expected:
                raise ArithmeticError("its replay differs from the step itself")
        except Exception as error:  # whatever failed, the eager step has succeeded
            after()
            reason = error.__context__ or error
            self._warn(f"{type(reason).__name__}: {reason}", 6)
            replayed = None
        if replayed is None:
            del captured
            backend.free_memory()  # what the failed capture used
            return result
        self._variants[kind] = captured
        return replayed[0]

    def _warn(self, reason: str, stacklevel: int = 5) -> None:
        if reason in self._warned:
            return
        self._warned.add(reason)
        step = self._step.func if isinstance(self._step, partial) else self._step
        name = getattr(step, "__qualname__", type(step).__name__)
        warnings.warn(f"capture: {name} runs as usual, because {reason}", stacklevel=stacklevel)


class _Variant:
    """One captured variant of a step on one device: its graph, its input buffers and its result buffers."""

    def __init__(self, backend: Backend, held: _Held, arguments: tuple[Any, ...], memory: Any) -> None:
        graph = ops.new_graph(backend, memory)
        assert graph is not None
        self._backend, self._held = backend, held
        self._inputs = [a.like(ops.c_ordered_copy(backend, a.array)) if isinstance(a, Tensor) else a for a in arguments]
        self._kept = held.arrays()  # the graph has their addresses
        self._result: Any = None
        self._changed: set[Hashable] = set()
        self._gradients: list[tuple[Parameter, Tensor | None]] = []
        self._graph = graph  # the last to be dropped, after the arrays in its memory

    def observe(self, step: Callable[..., Any]) -> tuple[Any, list[str]]:
        """Run the step eagerly; return its results, and the kinds of objects it used that are missing in the state."""
        result, state = self._graph.observe(lambda: step(*self._inputs))
        self._changed = self._graph.changed()
        used = [*(optimizer for optimizer, _ in state.optimizers), *state.generators]
        known = [*self._held.optimizers, *self._held.generators]
        stray = {type(one).__name__ for one in used if not any(one is other for other in known)}
        return self._anew(result), sorted(stray)

    def capture(self, step: Callable[..., Any]) -> None:
        self._result = self._graph.capture(lambda: step(*self._inputs))
        self._changed &= self._graph.changed()
        self._gradients = [(parameter, parameter.grad) for parameter in self._held.parameters]

    def changes_others(self) -> bool:
        """Whether the step changes a Tensor in place that is not in the state: both runs of the step changed it.

        A Tensor that the step itself makes is a different one in each run.
        """
        gradients = (p._grad for p in self._held.parameters if p._grad is not None)
        known = {one.version for one in (*self._held.tensors, *self._held.parameters, *gradients)}
        return bool(self._changed - known)

    def replay(self, arguments: tuple[Any, ...]) -> Any:
        pairs = [
            (own.array, given.array)
            for own, given in zip(self._inputs, arguments, strict=True)
            if isinstance(own, Tensor) and own.array is not given.array
        ]
        ops.copy_all(self._backend, pairs)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            if gradient is None:
                parameter.grad = None
            elif parameter.store is None:  # the next replay overwrites the graph's memory
                parameter.grad = self._anew(gradient)
            else:
                parameter.fill_gradient_room()
        return self._anew(self._result)

    def _anew(self, result: Any) -> Any:
        """Return copies of the results, because the next replay overwrites the graph's memory."""
        pairs: list[tuple[Array, Array]] = []

        def copy(tensor: Tensor) -> Tensor:
            array = ops.empty(self._backend, tensor.shape, tensor.dtype)
            pairs.append((array, tensor.array))
            return tensor.like(array)

        copies = _rebuilt(result, copy)
        ops.copy_all(self._backend, pairs)
        return copies


class _Held:
    """Everything that a step reads and changes. It can be saved, and restored before the step runs again."""

    def __init__(self, state: list[Any]) -> None:
        models = [one for one in state if isinstance(one, Module)]
        self.modules: list[Module] = _once(module for model in models for module in model.modules())
        self.optimizers = [one for one in state if isinstance(one, Optimizer)]
        for optimizer in self.optimizers:
            optimizer.take_back()
        given = [one for one in state if isinstance(one, Generator)]
        own = (value for module in self.modules for value in vars(module).values() if isinstance(value, Generator))
        self.generators = _once([current_generator(), *given, *own])
        bound = [segment.parameter for o in self.optimizers for _, segment in o._segments()]
        self.parameters: list[Parameter] = _once([*(p for model in models for p in model.parameters()), *bound])
        buffers = [buffer for module in self.modules for buffer in module._buffers.values()]
        self.tensors: list[Tensor] = _once([*(one for one in state if isinstance(one, Tensor)), *buffers])

    def kind(self) -> Iterator[Any]:
        """Yield the key of a capture: attributes of modules, addresses of parameters, fixed hyper-parameters."""
        yield tuple(map(_attributes, self.modules))
        yield tuple((p.requires_grad, p.grad is None, id(p.array)) for p in self.parameters)
        yield tuple(id(tensor.array) for tensor in self.tensors)
        yield tuple(map(id, self.generators))
        for optimizer in self.optimizers:
            yield tuple(repr(optimizer.fixed(group)) for group in optimizer.param_groups)

    def arrays(self) -> list[Array]:
        """Return every array that the step may change in place."""
        found = [one.array for one in (*self.parameters, *self.tensors)]
        found += [p.grad.array for p in self.parameters if p.grad is not None]
        for optimizer in self.optimizers:
            found += [array for buffers in optimizer._buffers for b in buffers for array in b.arrays()]
        return found

    def save(self) -> Callable[[], None]:
        """Return a function that restores the current state."""
        for optimizer in self.optimizers:
            optimizer.take_over_changes()
        arrays = self.arrays()
        copies = [ops.c_ordered_copy(backend_of(array), array) for array in arrays]
        gradients = [(p, p.grad) for p in self.parameters]
        steps = [(o, o.steps, [(s, s.steps, s.history) for _, s in o._segments()]) for o in self.optimizers]
        draws = [(g, g.seed, g.counter) for g in self.generators]

        def put_back() -> None:
            for parameter, gradient in gradients:
                parameter.grad = gradient if parameter.store is None else None
                if gradient is not None and parameter.store is not None:
                    parameter.fill_gradient_room()
            for array, copy in zip(arrays, copies, strict=True):
                ops.fill(backend_of(array), array, copy)
            for optimizer, count, segments in steps:
                optimizer.steps = count
                for segment, seen, history in segments:
                    segment.steps, segment.history = seen, history
            for generator, seed, counter in draws:
                generator.seed, generator.counter = seed, counter

        return put_back

    def bits(self, result: Any) -> list[Any]:
        """Return everything that a step returns or changes, as bytes and numbers on the host."""
        tensors: list[Tensor] = []
        _rebuilt(result, lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
        device = [(tensor.backend, tensor.array) for tensor in tensors]
        device += [(one.backend, one.array) for one in (*self.parameters, *self.tensors)]
        device += [(p.backend, p.grad.array) for p in self.parameters if p.grad is not None]
        for optimizer in self.optimizers:
            device += [(b.backend, one) for some in optimizer._buffers for b in some for one in b.arrays()]
        found: list[Any] = [backend.to_host(array).tobytes() for backend, array in device]
        found += [[s.steps for _, s in optimizer._segments()] for optimizer in self.optimizers]
        return [*found, *((g.seed, g.counter) for g in self.generators), [o.steps for o in self.optimizers]]


def _attributes(module: Module) -> tuple[Any, ...]:
    """Return the attributes of a module that may affect its computation: mode, numbers, strings, functions."""
    return tuple(
        (name, value)
        for name, value in vars(module).items()
        if not isinstance(value, (Module, Tensor, Generator)) and _is_hashable(value)
    )


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _kind_of(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.shape, str(argument.dtype)
    if not _is_hashable(argument):
        kind = type(argument).__name__
        raise ParameterError.expected("capture", "an argument", "a Tensor or a hashable value", kind)
    return type(argument), argument


def _backends(found: Sequence[Any]) -> Iterator[Backend]:
    """Yield the devices of Tensors and of the parameters of modules and optimisers."""
    for one in found:
        if isinstance(one, Tensor):
            yield one.backend
        elif isinstance(one, Module):
            yield from (parameter.backend for parameter in one.parameters())
        elif isinstance(one, Optimizer):
            yield from (buffer.backend for buffer, _ in one._segments())


def _once(found: Any) -> list[Any]:
    """Return the objects in order without duplicates."""
    return list({id(one): one for one in found}.values())


def _rebuilt(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return nested tuples, lists and dicts with ``change`` applied to each Tensor."""
    if isinstance(result, Tensor):
        return change(result)
    if isinstance(result, dict):
        return {key: _rebuilt(value, change) for key, value in result.items()}
    if type(result) in (tuple, list):
        return type(result)(_rebuilt(value, change) for value in result)
    return result
