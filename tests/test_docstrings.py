"""The examples in the docstrings of the installed package run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import gpucnn

MODULES = [gpucnn.__name__] + [
    module.name for module in pkgutil.walk_packages(gpucnn.__path__, "gpucnn.") if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failures, _ = doctest.testmod(importlib.import_module(name))
    assert not failures


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) > 40
