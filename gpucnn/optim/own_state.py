"""The state that a user's own optimiser keeps of each parameter (``state[p]``): as arrays for a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpucnn.autograd import Parameter, Tensor
from gpucnn.backend import Backend
from gpucnn.checks import is_flag, is_integer, is_number
from gpucnn.errors import ParameterError
from gpucnn.optim.flat import Segment

TENSOR, NUMBER = "own:", "own-number:"
"""Arrays are named own:KEY:PARAMETER, those of numbers own-number:KEY:PARAMETER."""


def is_own(name: str) -> bool:
    """Whether an array of this name comes from ``packed``."""
    return name.startswith((TENSOR, NUMBER))


def packed(state: Mapping[Parameter, Mapping[str, Any]], segments: Iterable[Segment]) -> dict[str, Any]:
    """Return copies of all Tensors and numbers by name; ParameterError for other values, or a key that is not plain text."""
    arrays = {}
    for segment in segments:
        for key, value in state.get(segment.parameter, {}).items():
            where = f"state[{segment.name}]"
            if not isinstance(key, str) or not key or ":" in key:
                raise ParameterError.expected(where, "key", "a text without ':'", repr(key))
            if isinstance(value, Tensor):
                arrays[f"{TENSOR}{key}:{segment.name}"] = value.numpy()
            elif is_flag(value) or is_number(value):
                arrays[f"{NUMBER}{key}:{segment.name}"] = _as_array(value, segment.parameter.backend)
            else:
                raise ParameterError.expected(where, key, "a Tensor or a number, to be saved", type(value).__name__)
    return arrays


def _as_array(number: Any, backend: Backend) -> Any:
    dtype = "bool" if is_flag(number) else "int64" if is_integer(number) else "float64"
    return backend.to_host(backend.asarray(number, dtype))


def unpacked(arrays: Mapping[str, Any], segments: Iterable[Segment]) -> dict[Parameter, dict[str, Any]]:
    """Return the state that ``packed`` received, Tensors on their parameter's device; KeyError for an unknown parameter."""
    parameters = {segment.name: segment.parameter for segment in segments}
    state: dict[Parameter, dict[str, Any]] = {}
    for name, array in arrays.items():
        _, key, parameter_name = name.split(":", 2)
        parameter = parameters[parameter_name]
        values = state.setdefault(parameter, {})
        if name.startswith(NUMBER):
            values[key] = array.item()
        else:
            values[key] = Tensor(parameter.backend.asarray(array), parameter.backend)
    return state
