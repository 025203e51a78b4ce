"""Loading a network from a user's Python file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from gpucnn.errors import UsageError
from gpucnn.nn import Module


class FreshLoader(SourceFileLoader):
    """A loader that always compiles the source, and neither reads nor writes cached bytecode."""

    def path_stats(self, path: Any) -> Any:
        raise OSError("no byte code")


def load_from_file(path: str, name: str) -> Callable[..., Any]:
    """Run the Python file and return its ``name``: a Module class, or a function that makes a Module.

    The file runs with all rights of the user: load only files that you trust.
    Raises UsageError if the file is missing, fails, or has no such class or function.

    >>> load_from_file("nowhere.py", "Net")
    Traceback (most recent call last):
    gpucnn.errors.UsageError: model nowhere.py: no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"model {path}: no such file.")
    key = f"gpucnn model {file.resolve()}"
    spec = importlib.util.spec_from_file_location(key, file, loader=FreshLoader(key, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(key)
    sys.modules[key] = module  # dataclasses, for one, look up the module here
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        _restore(key, before)
        raise UsageError(f"model {path}: the file cannot be run ({described(error)}).") from error
    found = getattr(module, name, None)
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Module)):
        own = [
            n for n, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == spec.name
        ]
        got = "nothing of that name" if found is None else f"{type(found).__name__} {found!r:.60}"
        raise UsageError.expected(
            f"model {path}", name or "name", "a Module class, or a function that makes a Module", got,
            f"the file has {', '.join(own)}: write {path}:{own[0]}" if own else f"write {path}:NAME",
        )  # fmt: skip
    return found  # type: ignore[no-any-return]


def _restore(key: str, before: Any) -> None:
    if before is None:
        del sys.modules[key]
    else:
        sys.modules[key] = before


def described(error: Exception) -> str:
    """Return the type and the first line of an exception.

    >>> described(ValueError("no", "way"))
    "ValueError: ('no', 'way')"
    """
    return f"{type(error).__name__}: {error}".splitlines()[0]
