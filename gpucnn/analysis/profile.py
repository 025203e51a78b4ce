"""Time and multiply-adds of each layer, forward and backward."""

from __future__ import annotations

import copy
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from gpucnn import nn
from gpucnn.analysis.hooks import check_module
from gpucnn.analysis.titles import layer_titles
from gpucnn.autograd import Tensor
from gpucnn.backend import Generator, drawing_from
from gpucnn.checks import is_count
from gpucnn.errors import ParameterError, ShapeError


@dataclass(frozen=True)
class LayerTime:
    """A layer's time for one batch: seconds forward and backward, and multiply-adds forward for the batch.

    name: as in ``named_modules``; title: a readable name; output_shape: of its last call.
    """

    name: str
    title: str
    kind: str
    output_shape: tuple[int, ...]
    forward: float
    backward: float
    multiply_adds: int


@dataclass(frozen=True)
class Profile:
    """The layers in their order, and the seconds of a whole step, forward and backward, as it usually runs.

    The layers' times are measured one by one, which prevents fusion of neighbours: their sum can be more than ``step``.
    """

    model: str
    input_shape: tuple[int, ...]
    device: str
    layers: list[LayerTime]
    step: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def profile(model: nn.Module, x: Tensor, repeats: int = 5) -> Profile:
    """Return how long each layer of ``model`` takes for the batch ``x`` (N, ...), forward and backward in training mode.

    The gradient of every output is 1. Times are medians over ``repeats`` passes of a copy, after one uncounted pass; the
    model itself is unchanged. What runs between layers, such as a sum of branches, is counted with the layer around it.
    Raises ParameterError, ShapeError.

    >>> import gpucnn
    >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU())
    >>> [layer.title for layer in profile(net, gpucnn.tensor([[[[0.0] * 8] * 8]]), 1).layers]
    ['conv1', 'relu1']
    """
    check_module(model, "profile")
    if not is_count(repeats, 1):
        raise ParameterError.expected("profile", "repeats", "a positive int", repr(repeats))
    if not isinstance(x, Tensor) or not x.ndim or not x.size:
        raise ShapeError.expected("profile", "x", "a batch that is not empty", f"shape {getattr(x, 'shape', None)}")
    copied = copy.deepcopy(model).train()
    with drawing_from(Generator(0)):
        step = _timed_step(copied, x, repeats)
        clock = _Clock(copied, x.backend.synchronize)
        for number in range(repeats + 1):
            clock.run(x, counted=number > 0)
    return Profile(type(model).__name__, x.shape, x.backend.name, clock.layers(), step)


def _timed_step(model: nn.Module, x: Tensor, repeats: int) -> float:
    def once() -> float:
        x.backend.synchronize()
        begun = time.perf_counter()
        model(x.detach().requires_grad_()).sum().backward()
        x.backend.synchronize()
        return time.perf_counter() - begun

    once()
    return statistics.median(once() for _ in range(repeats))


class _Clock:
    """Times the layers of a model, pass by pass.

    The tape goes through the recorded operations in reverse order, so a layer's part of the backward pass begins when the
    gradient of its output is ready, and ends when that of another layer's output is.
    """

    def __init__(self, model: nn.Module, wait: Callable[[], None]) -> None:
        self._model, self._wait = model, wait
        self._names = {id(module): name for name, module in model.named_modules()}
        self._titles = layer_titles(model)
        self._kinds: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._work: dict[str, int] = defaultdict(int)
        self._forward: dict[str, list[float]] = defaultdict(list)
        self._backward: dict[str, list[float]] = defaultdict(list)

    def _now(self) -> float:
        self._wait()
        return time.perf_counter()

    def run(self, x: Tensor, counted: bool) -> None:
        forward: dict[str, float] = defaultdict(float)
        backward: dict[str, float] = defaultdict(float)
        begun: list[tuple[str, float]] = []
        arrivals: list[tuple[str, float]] = []
        inside: list[float] = [0.0]  # time of the layers within each layer that is running
        seen: set[int] = set()
        self._work.clear()

        def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            inside.append(0.0)
            begun.append((self._names[id(module)], self._now()))

        def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            name, start = begun.pop()
            took = self._now() - start
            forward[name] += took - inside.pop()
            inside[-1] += took
            self._note(name, module, inputs, output)
            if isinstance(output, Tensor) and output.node is not None and id(output.node) not in seen:
                seen.add(id(output.node))
                output.register_hook(lambda _: arrivals.append((name, self._now())))

        with ExitStack() as stack:
            for module in self._model.modules():
                stack.enter_context(module.register_forward_pre_hook(before))
                stack.enter_context(module.register_forward_hook(after))
            y = self._model(x.detach().requires_grad_())
        if isinstance(y, Tensor) and y.requires_grad:
            y.sum().backward()
        ends = [moment for _, moment in arrivals[1:]] + [self._now()]
        for (name, moment), end in zip(arrivals, ends, strict=True):
            backward[name] += end - moment
        if counted:
            for name in self._kinds:
                self._forward[name].append(forward[name])
                self._backward[name].append(backward[name])

    def _note(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._kinds.setdefault(name, type(module).__name__)
        self._shapes[name] = getattr(output, "shape", ())
        is_leaf = not any(module.children())
        if is_leaf and isinstance(module, nn.Layer) and inputs and isinstance(inputs[0], Tensor):
            self._work[name] += module.multiply_adds(inputs[0].shape)

    def layers(self) -> list[LayerTime]:
        """Return the layers that ran, and containers that do something themselves, in the order of ``named_modules``."""
        found = []
        for name, module in self._model.named_modules():
            if name not in self._kinds:
                continue
            times = statistics.median(self._forward[name]), statistics.median(self._backward[name])
            if any(module.children()) and isinstance(module, nn.Sequential):  # which does nothing itself
                continue
            title = self._titles.get(name, name or type(module).__name__)
            found.append(LayerTime(name, title, self._kinds[name], self._shapes[name], *times, self._work.get(name, 0)))
        return found
