"""A training step on CUDA, and operations held against the reference in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import assert_close

import gpucnn
import gpucnn.functional as F
from gpucnn import nn, optim
from gpucnn.backend import Backend

DEVICES = ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)]


RNG = np.random.default_rng


class Reference(Backend):
    """The references on NumPy, which tests of functional/ hold against loops."""

    xp = np


def train_once(model: nn.Module, shape: tuple[int, ...], optimizer: Any = None) -> None:
    optimizer = optimizer or optim.Adam(model.parameters())
    x = gpucnn.tensor(RNG(0).standard_normal(shape).astype(np.float32))
    labels = gpucnn.tensor(np.arange(shape[0]) % 10)
    optimizer.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    optimizer.step()


def arrays(backend: Backend, *host: Any) -> list[Any]:
    return [None if one is None else backend.asarray(one.astype(np.float32)) for one in host]


def hold(backend: Backend, method: str, *arguments: Any, tolerance: float = 2e-5) -> None:
    """Compare a method's results with those of the reference in float64, on arguments that are NumPy arrays in float64."""
    expected = getattr(Reference(), method)(*arguments)
    given = [arrays(backend, one)[0] if isinstance(one, np.ndarray) else one for one in arguments]
    before = backend.ran[f"{method}.fast"]
    got = getattr(backend, method)(*given)
    assert backend.ran[f"{method}.fast"] == before + 1
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else ((got, np.asarray(expected)),)
    for ours, theirs in pairs:
        assert_close(backend.to_host(ours), theirs, tolerance)
