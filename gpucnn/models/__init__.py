"""Networks by name: ``build("lenet:activation=sigmoid,pooling=avg")``."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from gpucnn.errors import UsageError
from gpucnn.models.lenet import lenet
from gpucnn.nn import Module

MODELS: dict[str, Callable[..., Module]] = {"lenet": lenet}


def build(text: str, **defaults: Any) -> Module:
    """Return the network that ``text``, NAME or NAME:OPTION=VALUE,..., describes; its options win over ``defaults``.

    Defaults that the network has no option for are left out. UsageError for an unknown name, option or kind of value.

    >>> len(build("lenet:pooling=avg", classes=3))
    12
    """
    name, _, rest = text.partition(":")
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, 1)
        raise UsageError.expected(
            "model", "name", ", ".join(sorted(MODELS)), repr(name), f"did you mean {near[0]}?" if near else ""
        )
    known = inspect.signature(MODELS[name]).parameters
    options = {key: value for key, value in defaults.items() if key in known}
    for item in rest.split(",") if rest else []:
        key, equals, value = item.partition("=")
        if not equals or key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise UsageError.expected(
                f"model {name}", "option", f"OPTION=VALUE with {', '.join(known)}", repr(item),
                f"did you mean {near[0]}?" if near else "",
            )  # fmt: skip
        options[key] = _value(value)
    return MODELS[name](**options)


def _value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


__all__ = ["MODELS", "build", "lenet"]
