"""What the real CuPy takes: its names and signatures, and how a call that it takes is handed to NumPy.

The real package imports without a driver, so its names and most of its signatures can be asked for at run time.
Cython's methods have none that `inspect` can read; theirs is the first line of the docstring, in Cython's notation.
"""

import ast
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Plan = tuple[list[int | str], dict[str, int | str]]


@functools.cache
def real_cupy() -> Any:
    """The real CuPy, whatever stands under that name in `sys.modules` later on."""
    import cupy

    # Tests may load this package under two names, the second time with the first one's stand-in in place.
    return cupy._real if hasattr(cupy, "standin") else cupy


@functools.cache
def real_cupyx() -> Any:
    real_cupy()
    import cupyx  # type: ignore[import-untyped, unused-ignore]

    # Looking into it loads it, which works only as long as `cupy` is CuPy.
    return vars(cupyx).get("_real", cupyx)


def missing(owner: str, name: str) -> AttributeError:
    return AttributeError(f"{owner!r} has no attribute {name!r}: it is missing in CuPy {real_cupy().__version__} too")


def gap(dotted: str) -> NotImplementedError:
    return NotImplementedError(f"{dotted} is in CuPy, but not in the stand-in: add it to tests/support/standin")


def _from_docstring(function: Any) -> inspect.Signature | None:
    """The signature in `_ndarray_base.swapaxes(self, Py_ssize_t axis1, Py_ssize_t axis2) -> _ndarray_base`."""
    first_line = (getattr(function, "__doc__", None) or "").split("\n")[0]
    match = re.match(r"[\w.]+\((.*)\)(\s*->.*)?$", first_line)
    if match is None:
        return None
    parts = [part.strip() for part in match[1].split(",") if part.strip()]
    # "int axis=-1" is C for "axis=-1".
    plain = [re.sub(r"^[\w ]+? (\*?\w+)(=.*)?$", r"\1\2", part) for part in parts]
    try:
        arguments = ast.parse(f"def function({', '.join(plain)}): pass").body[0].args  # type: ignore[attr-defined]
    except SyntaxError:
        return None
    kinds = inspect.Parameter
    optional_from = len(arguments.args) - len(arguments.defaults)
    parameters = [
        kinds(one.arg, kinds.POSITIONAL_OR_KEYWORD, default=kinds.empty if place < optional_from else None)
        for place, one in enumerate(arguments.args)
    ]
    if arguments.vararg:
        parameters.append(kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    parameters += [
        kinds(one.arg, kinds.KEYWORD_ONLY, default=kinds.empty if default is None else None)
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return inspect.Signature(parameters)


def read_signature(function: Any) -> inspect.Signature | None:
    """The signature of a function or method of the real CuPy; None if it tells none."""
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        return _from_docstring(function)


class Call:
    """A function of the real CuPy and NumPy's of the same name: checks a call by the one, runs it by the other."""

    def __init__(self, dotted: str, real: Any, host: Callable[..., Any]) -> None:
        self.dotted = dotted
        self.host = host
        signature = read_signature(real)
        if signature is None:
            raise gap(dotted)
        self.signature = signature
        self.names = list(signature.parameters)
        self.plans: dict[tuple[int, tuple[str, ...]], Plan] = {}
        try:
            self.host_parameters = dict(inspect.signature(host).parameters)
        except (ValueError, TypeError):
            self.host_parameters = {}

    def check(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.dotted}{self.signature}: {error} (CuPy does not take this call)") from None

    def plan(self, count: int, names: tuple[str, ...]) -> Plan:
        """Which argument of the call goes where in NumPy's, found once for each shape that a call can have."""
        key = (count, names)
        if key not in self.plans:
            self.plans[key] = self._make_plan(self.check(*range(count), **{name: name for name in names}))
        return self.plans[key]

    def _make_plan(self, bound: inspect.BoundArguments) -> Plan:
        by_place: list[int | str] = []
        by_name: dict[str, int | str] = {}
        host_places = [p.name for p in self.host_parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
        for name, token in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            place = self.names.index(name)
            if kind is inspect.Parameter.VAR_POSITIONAL:
                by_place += token
            elif kind is inspect.Parameter.VAR_KEYWORD:
                by_name |= token
            elif not self.host_parameters:
                if isinstance(token, int):
                    by_place.append(token)
                else:
                    by_name[name] = token
            elif place == len(by_place) < len(host_places) and (
                # The same parameter under NumPy's name for it (a, m, arr ...), unless NumPy has that one elsewhere.
                host_places[place] == name or (host_places[place] not in self.names and name not in host_places)
            ):
                by_place.append(token)
            elif name in self.host_parameters:
                by_name[name] = token
            else:
                raise gap(f"{self.dotted}({name}=...)")
        return by_place, by_name

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs NumPy's function on arguments that hold NumPy arrays already, silent about overflow as a GPU is."""
        by_place, by_name = self.plan(len(args), tuple(kwargs))
        with np.errstate(all="ignore"):
            return self.host(
                *[args[token] if isinstance(token, int) else kwargs[token] for token in by_place],
                **{name: args[token] if isinstance(token, int) else kwargs[token] for name, token in by_name.items()},
            )
