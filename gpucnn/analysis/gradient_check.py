"""Gradient checks by central differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn import nn
from gpucnn.analysis.hooks import home_of
from gpucnn.autograd import Tensor, no_grad, tensor
from gpucnn.backend import Backend, Generator, current_generator, drawing_from
from gpucnn.checks import is_count
from gpucnn.errors import DTypeError, ParameterError


@dataclass(frozen=True)
class GradientCheck:
    """One input or parameter: how many of its elements were checked, and the one with the largest error.

    error is |backward - numerical| / max(1, |backward|, |numerical|) at ``index``.

    >>> check_gradients(lambda x: x * x, 3.0).checks[0].index
    ()
    """

    name: str
    checked: int
    error: float
    index: tuple[int, ...]
    backward: float
    numerical: float


@dataclass(frozen=True)
class GradientReport:
    """The checks of all inputs and parameters; true if every error is within the tolerance.

    >>> bool(check_gradients(lambda x: x * x, 3.0))
    True
    """

    checks: tuple[GradientCheck, ...]
    tolerance: float

    @property
    def error(self) -> float:
        """The largest error of all."""
        return max(check.error for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(check.error <= self.tolerance for check in self.checks)  # NaN is not

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [
            f"{'ok   ' if check.error <= self.tolerance else 'WRONG'} {check.name:<{width}}  error {check.error:.1e} of "
            f"{check.checked:,} elements; at {check.index} backward {check.backward:.6g}, numerical {check.numerical:.6g}"
            for check in self.checks
        ]
        return "\n".join(lines)


def check_gradients(
    function: Callable[..., Tensor],
    *inputs: Any,
    module: nn.Module | None = None,
    eps: float = 1e-6,
    tolerance: float = 1e-6,
    samples: int | None = None,
) -> GradientReport:
    """Compare the gradients of ``function`` with central differences (f(x + eps) - f(x - eps)) / (2 eps), in float64.

    inputs: numbers, arrays or Tensors, copied; floating ones become float64 and are checked, others (labels) are passed on.
    function: a Module, or anything that maps them to one floating Tensor; outputs of several elements are summed with fixed
    random weights. module: a Module whose parameters, which must be float64, are checked too, in its current mode; by
    default ``function`` if it is one. samples: check only this many elements of each array, drawn with a fixed seed.
    The module's parameters, gradients and buffers and the random generator stay as they were; random layers see the same
    numbers in every run. Where f has a kink (ReLU at 0, equal maxima) a difference is no error.
    Raises DTypeError for float32 parameters, ParameterError if there is nothing to check.

    >>> report = check_gradients(lambda x, y: (x * y).sum(), [1.0, 2.0], [3.0, 4.0])
    >>> report.passed, [check.name for check in report.checks]
    (True, ['input 0', 'input 1'])
    """
    for value, argument in ((eps, "eps"), (tolerance, "tolerance")):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ParameterError.expected("check_gradients", argument, "a positive number", repr(value))
    if samples is not None and not is_count(samples, 1):
        raise ParameterError.expected("check_gradients", "samples", "a positive int", repr(samples))
    if module is None and isinstance(function, nn.Module):
        module = function
    backend = None if module is None else home_of(module)[0]
    with no_grad():
        arguments = [_double(value, backend) for value in inputs]
    leaves = {f"input {i}": x for i, x in enumerate(arguments) if x.dtype.kind == "f"}
    for leaf in leaves.values():
        leaf.requires_grad_()
    if module is not None:
        leaves |= _parameters(module)
    if not leaves:
        raise ParameterError.expected("check_gradients", "inputs", "at least one floating input or parameter", "none")
    seed, counter = current_generator().seed, current_generator().counter
    state = None if module is None else module.state_dict()
    kept = {name: None if leaf.grad is None else leaf.grad.clone() for name, leaf in leaves.items()}

    def run() -> Tensor:
        with drawing_from(Generator(seed, counter)):
            y = function(*arguments)
        if not isinstance(y, Tensor) or y.dtype.kind != "f":
            raise DTypeError.expected("check_gradients", "function", "one floating Tensor", type(y).__name__)
        return y

    try:
        for leaf in leaves.values():
            leaf.grad = None
        y = run()
        weights = np.random.default_rng(0).uniform(0.5, 1.5, y.shape)
        if y.requires_grad:
            y.backward(tensor(weights, dtype=y.dtype, device=y.backend))
        computed = {
            name: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy() for name, leaf in leaves.items()
        }
        checks = tuple(
            _check(name, leaf, computed[name], lambda: float((run().numpy() * weights).sum()), eps, samples)
            for name, leaf in leaves.items()
        )
    finally:
        if module is not None and state is not None:
            module.load_state_dict(state)
        for name, leaf in leaves.items():
            leaf.grad = kept[name]
    return GradientReport(checks, tolerance)


def _check(
    name: str, leaf: Tensor, computed: Any, total: Callable[[], float], eps: float, samples: int | None
) -> GradientCheck:
    """Compare the gradient of one array with the change of the total as each element is moved."""
    values = leaf.numpy()
    places = np.arange(values.size)
    if samples is not None and samples < values.size:
        places = np.sort(np.random.default_rng(0).permutation(values.size)[:samples])
    worst = GradientCheck(name, len(places), 0.0, (), 0.0, 0.0)
    with no_grad():
        for place in places:
            index = tuple(int(i) for i in np.unravel_index(place, values.shape))
            sides = []
            for moved in (values[index] + eps, values[index] - eps):
                changed = values.copy()
                changed[index] = moved
                leaf.copy_(tensor(changed, device=leaf.backend))
                sides.append(total())
            leaf.copy_(tensor(values, device=leaf.backend))
            backward, numerical = float(computed[index]), (sides[0] - sides[1]) / (2 * eps)
            error = abs(backward - numerical) / max(1.0, abs(backward), abs(numerical))
            if not error <= worst.error or place == places[0]:  # NaN, too, is worse
                worst = GradientCheck(name, len(places), error, index, backward, numerical)
                if np.isnan(error):
                    break
    return worst


def _double(value: Any, backend: Backend | None) -> Tensor:
    x = tensor(value, device=value.backend if isinstance(value, Tensor) else backend)
    return x.to("float64") if x.dtype.kind == "f" else x


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dtype != "float64":
            raise DTypeError.expected(
                "check_gradients",
                name,
                "float64",
                parameter.dtype,
                "convert a copy: copy.deepcopy(model).to('float64')",
            )
        found[name] = parameter
    return found
