"""Networks by name: ``build("lenet:activation=sigmoid,pooling=avg")``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gpucnn.errors import GpucnnError, UsageError, did_you_mean
from gpucnn.models.deep import resnet, vgg
from gpucnn.models.from_file import described, load_from_file
from gpucnn.models.lenet import lenet
from gpucnn.models.saved import load, save
from gpucnn.models.small import conv_mlp, simple_convnet
from gpucnn.models.structure import describe, rebuild
from gpucnn.models.torchvision import (
    alexnet,
    densenet121,
    mobilenet_v2,
    resnet18,
    resnet34,
    resnet50,
    squeezenet1_1,
    vgg11,
    vgg16,
    vgg16_bn,
)
from gpucnn.nn import Module
from gpucnn.options import parameters_of, read_options

MODELS: dict[str, Callable[..., Module]] = {
    "lenet": lenet,
    "simple_convnet": simple_convnet,
    "conv_mlp": conv_mlp,
    "vgg": vgg,
    "resnet": resnet,
    "alexnet": alexnet,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "squeezenet1_1": squeezenet1_1,
    "densenet121": densenet121,
}


def build(text: str, **defaults: Any) -> Module:
    """Return the network that ``text`` describes: NAME, NAME:OPTION=VALUE,... or FILE.py:NAME:OPTION=VALUE,...

    NAME is one of ``MODELS``, or a Module class or function in a Python file. The file is run, so it must be one you trust.
    Options override ``defaults``; defaults that the network does not accept are ignored.
    UsageError for an unknown name or option, a value of the wrong type, or a file that fails.

    >>> len(build("lenet:pooling=avg", classes=3))
    12
    """
    name, make, rest = _named(text)
    known, _ = parameters_of(make)
    options = {key: value for key, value in defaults.items() if key in known}
    options |= read_options(rest, make, f"model {name}")
    return _make(name, make, options)


def check(text: str) -> None:
    """UsageError where ``build`` would refuse the name or an option of ``text``; no network is built.

    >>> check("lenet:pooling=avg")
    """
    name, make, rest = _named(text)
    read_options(rest, make, f"model {name}")


def _named(text: str) -> tuple[str, Callable[..., Any], str]:
    """Return the name of a network, what makes it, and its options as text."""
    name, rest = split_model(text)
    rest = rest[1:]
    if name.endswith(".py"):
        inside, _, rest = rest.partition(":")
        return f"{name}:{inside}", load_from_file(name, inside), rest
    if name in MODELS:
        return name, MODELS[name], rest
    expected = f"{', '.join(sorted(MODELS))}, or FILE.py:NAME"
    raise UsageError.expected("model", "name", expected, repr(name), did_you_mean(name, MODELS))


def split_model(text: str) -> tuple[str, str]:
    """Split a description into the name, or the path of the Python file, and the rest with its colon.

    >>> split_model("lenet:pooling=avg"), split_model("C:\\\\nets\\\\mine.py:Net")
    (('lenet', ':pooling=avg'), ('C:\\\\nets\\\\mine.py', ':Net'))
    """
    drive = 2 if re.match(r"[A-Za-z]:[\\/]", text) else 0
    colon = text.find(":", drive)
    return (text, "") if colon < 0 else (text[:colon], text[colon:])


def _make(name: str, make: Callable[..., Any], options: dict[str, Any]) -> Module:
    try:
        net = make(**options)
    except GpucnnError as error:
        raise UsageError(f"model {name}: {error}") from None
    except Exception as error:
        if name in MODELS:
            raise
        raise UsageError(f"model {name}: making it with {options} failed ({described(error)}).") from error
    if not isinstance(net, Module):
        raise UsageError.expected(f"model {name}", "result", "a Module", type(net).__name__)
    return net


__all__ = [
    "MODELS",
    "alexnet",
    "build",
    "check",
    "conv_mlp",
    "densenet121",
    "describe",
    "lenet",
    "load",
    "mobilenet_v2",
    "rebuild",
    "resnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "save",
    "simple_convnet",
    "split_model",
    "squeezenet1_1",
    "vgg",
    "vgg11",
    "vgg16",
    "vgg16_bn",
]
