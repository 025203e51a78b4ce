"""Errors are data: what they say is kept in fields, whatever their kind, and survives copies and other processes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import errors, nn
from gpucnn.errors import GpucnnError, ShapeError, UsageError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GpucnnError)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_fields_are_kept(kind: type[GpucnnError], copied: Any) -> None:
    error = kind.expected("conv2d", "input", "3 channels", "1 channel", "pad it")
    error.layer = "Conv2d(3, 4)"
    found = copied(error)
    assert type(found) is kind
    assert (found.where, found.argument, found.wanted, found.got) == ("conv2d", "input", "3 channels", "1 channel")
    assert found.problem == "conv2d: input: expected 3 channels, got 1 channel."
    assert str(found) == f"{found.problem} Pad it. (in layer Conv2d(3, 4))"
    assert repr(found) == f"{kind.__name__}({str(found)!r})"
    plain = copied(kind("It is broken.", remedy="mend it"))
    assert (plain.problem, str(plain)) == ("It is broken.", "It is broken. Mend it.")


def test_another_function_and_kind() -> None:
    error = ShapeError.expected("window", "image", "5x5", "3x3").at("max_pool2d", UsageError)
    assert type(error) is UsageError
    assert str(error) == "max_pool2d: image: expected 5x5, got 3x3."


def test_the_layer_is_named_once() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 2, name="head")))
    with pytest.raises(ShapeError) as caught:
        net(gpucnn.tensor(np.ones((1, 4), np.float32)))
    assert caught.value.layer == "head: Linear(3, 2)"
    assert str(caught.value).count("in layer") == 1
