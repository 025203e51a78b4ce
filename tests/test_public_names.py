"""Every public name says what it is; every function and layer shows how it is used."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import gpucnn
from gpucnn import Tensor, functional, models, nn, optim
from gpucnn.optim import lr_scheduler

# Bases and types that are not used by calling them with an example.
NO_EXAMPLE = {
    "gpucnn.Backend",
    "gpucnn.Tensor",
    "nn.Activation",
    "nn.Parameter",
    "optim.Optimizer",
    "optim.lr_scheduler.LRScheduler",
}


def public() -> Iterator[tuple[str, Any]]:
    for package, module in (
        ("gpucnn", gpucnn),
        ("functional", functional),
        ("nn", nn),
        ("optim", optim),
        ("models", models),
    ):
        yield from ((f"{package}.{name}", getattr(module, name)) for name in module.__all__)
    for package, module in (("nn.init", nn.init), ("optim.lr_scheduler", lr_scheduler)):
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
                yield f"{package}.{name}", value


DOCUMENTED = {name: value for name, value in public() if inspect.isroutine(value) or inspect.isclass(value)}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_it_says_what_it_is(name: str) -> None:
    text = DOCUMENTED[name].__doc__
    assert text
    assert len(text.strip()) > 3


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - NO_EXAMPLE))
def test_it_shows_how_it_is_used(name: str) -> None:
    assert ">>>" in DOCUMENTED[name].__doc__


def test_every_name_is_there_and_sorted() -> None:
    assert len(DOCUMENTED) > 50
    for module in (gpucnn, functional, nn, optim, models):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize(
    "kind", [Tensor, nn.Module, nn.Parameter, optim.Optimizer, gpucnn.Backend, lr_scheduler.OneCycleLR]
)
def test_public_methods_say_what_they_do(kind: type) -> None:
    names = [name for name in dir(kind) if not name.startswith("_") and inspect.isfunction(getattr(kind, name))]
    silent = [name for name in names if not inspect.getdoc(getattr(kind, name))]
    assert len(names) > 2
    assert silent == []
