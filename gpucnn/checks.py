"""Checks of arguments: integers, numbers and booleans, of Python or NumPy. Each check returns Python's own type."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any

from gpucnn.errors import ParameterError, did_you_mean


def is_finite(value: Any) -> bool:
    """Whether a number is finite and fits a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer of Python or NumPy. Booleans are not.

    >>> is_integer(3), is_integer(True), is_integer(3.0)
    (True, False, False)
    """
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number of Python or NumPy. Booleans are not; infinities and NaN are.

    >>> is_number(3), is_number(0.5), is_number("3")
    (True, True, False)
    """
    return type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))


def check_known(options: Mapping[str, Any], function: Callable[..., Any], where: str) -> None:
    """Raise ParameterError for an option that ``function`` does not take."""
    known = inspect.signature(function).parameters
    for name in options:
        if name not in known:
            raise ParameterError.expected(
                where, "option", f"one of {', '.join(known)}", name, did_you_mean(name, known)
            )


MOST = 2**31
"""An upper bound on any size."""


def is_count(value: Any, least: int, most: int = MOST) -> bool:
    """Whether ``value`` is an integer from ``least`` to ``most``."""
    return is_integer(value) and least <= int(value) <= most


def python_number(value: Any) -> int | float:
    """Convert a number to Python's int or float, so that it prints, compares and is saved as such.

    >>> python_number(2)
    2
    """
    return int(value) if isinstance(value, Integral) else float(value)


def check_number(
    value: Any, where: str, argument: str, least: float = -math.inf, most: float = math.inf
) -> int | float:
    """Return ``value`` as a Python number; ParameterError unless it is finite and from ``least`` to ``most``."""
    if not is_number(value) or not is_finite(value) or not least <= value <= most:
        wanted = "a finite number" if math.isinf(least) else f"a finite number of at least {least}"
        if math.isfinite(most):
            wanted = f"a number from {least} to {most}"
        raise ParameterError.expected(where, argument, wanted, shown(value))
    return python_number(value)


def check_positive(value: Any, where: str, argument: str) -> int | float:
    """Return ``value`` as a Python number; ParameterError unless it is above 0. It may be infinite."""
    if not is_number(value) or not value > 0 or (not is_finite(value) and value != math.inf):
        raise ParameterError.expected(where, argument, "a positive number", shown(value))
    return python_number(value)


def check_probability(value: Any, where: str, argument: str) -> int | float:
    """Return ``value`` as a Python number; ParameterError unless it is from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ParameterError.expected(where, argument, "a probability from 0 to 1", shown(value))
    return python_number(value)


def check_int(value: Any, where: str, argument: str) -> int:
    """Return ``value`` as a Python int; ParameterError unless it is an integer."""
    if not is_count(value, -MOST):
        raise ParameterError.expected(where, argument, "an int", shown(value))
    return int(value)


def check_count(value: Any, where: str, argument: str) -> int:
    """Return ``value`` as a Python int; ParameterError unless it is a positive integer."""
    if not is_count(value, 1):
        raise ParameterError.expected(where, argument, "a positive int", shown(value))
    return int(value)


def is_flag(value: Any) -> bool:
    """Whether ``value`` is a boolean of Python or NumPy.

    >>> is_flag(True), is_flag(1), is_flag("no")
    (True, False, False)
    """
    return isinstance(value, bool) or (type(value).__name__ in ("bool", "bool_") and type(value).__module__ == "numpy")


def check_choice(value: Any, where: str, argument: str, choices: Collection[str]) -> str:
    """Return ``value``; ParameterError unless it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        raise ParameterError.expected(where, argument, f"{', '.join(others)} or {last}", shown(value))
    return value


def check_flag(value: Any, where: str, argument: str) -> bool:
    """Return ``value`` as a Python bool; ParameterError unless it is a boolean."""
    if not is_flag(value):
        raise ParameterError.expected(where, argument, "True or False", shown(value))
    return bool(value)


def shown(value: Any) -> str:
    """Return ``repr(value)``, shortened to 80 characters; the type's name if it has no ``repr``.

    >>> shown([1, 2])
    '[1, 2]'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of thousands of digits, or deeply nested lists
        return type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."
