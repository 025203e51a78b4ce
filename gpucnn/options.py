"""Names with options, NAME:OPTION=VALUE,..., as on the command line and in TOML files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gpucnn.errors import UsageError, did_you_mean

LARGEST = 2**31
"""Of whole numbers: no size, length or count is larger."""

Value = int | float | bool | str | tuple[int | float, ...]


def read_options(text: str, make: Callable[..., Any], where: str, first: int = 0) -> dict[str, Value]:
    """Return the keyword arguments for ``make`` that "OPTION=VALUE,..." gives; it gets its ``first`` parameters otherwise.

    Values are integers, numbers, true or false, several numbers joined by "+", or else text.
    UsageError for an option that ``make`` has no parameter for.

    >>> read_options("low=1,high=2.5,at=3+5", lambda low, high, at: None, "example")
    {'low': 1, 'high': 2.5, 'at': (3, 5)}
    """
    known, takes_all = parameters_of(make)
    options: dict[str, Value] = {}
    for item in text.split(",") if text else []:
        key, equals, value = item.partition("=")
        if not equals or not (key in known[first:] or takes_all):
            expected = f"OPTION=VALUE with {', '.join(known[first:])}" if known[first:] else "none"
            raise UsageError.expected(where, "option", expected, repr(item), did_you_mean(key, known[first:]))
        found = options[key] = _value(value)
        if any(isinstance(n, int) and abs(n) > LARGEST for n in (found if isinstance(found, tuple) else (found,))):
            raise UsageError.expected(where, key, f"whole numbers up to {LARGEST}", f"{value:.20}...")
    return options


def parameters_of(make: Callable[..., Any]) -> tuple[list[str], bool]:
    """Return the names that ``make`` takes as keywords, and whether it takes any others."""
    parameters = inspect.signature(make).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind == p.VAR_KEYWORD for p in parameters)


def options_of(make: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters of ``make`` that have a default, with the default.

    >>> options_of(lambda first, low=1, at=None: None)
    {'low': 1, 'at': None}
    """
    parameters = inspect.signature(make).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = _number(text)
    if number is not None:
        return number
    numbers = tuple(_number(part) for part in text.split("+"))
    return text if None in numbers else numbers  # type: ignore[return-value]


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
