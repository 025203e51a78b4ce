"""Optimisers of float16 parameters: the float32 values behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import assert_close

import gpucnn
from gpucnn import nn, optim
from gpucnn.autograd import no_grad
from gpucnn.backend import Backend


def half(*values: float) -> nn.Parameter:
    return nn.Parameter(gpucnn.tensor(np.array(values, np.float16)))


def give(parameter: nn.Parameter, *values: float) -> None:
    parameter.grad = gpucnn.tensor(np.array(values, np.float16))


def test_steps_too_small_for_float16_add_up(backend: Backend) -> None:
    p = half(1.0)
    optimizer = optim.SGD([p], lr=1e-4)
    for _ in range(100):
        optimizer.zero_grad()
        give(p, 1.0)
        optimizer.step()  # in float16, 1 - 0.0001 is 1
    assert p.dtype == "float16"
    assert p.item() == np.float16(0.99)


@pytest.mark.bits
@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop])
def test_updates_are_those_of_float32(backend: Backend, make: Any) -> None:
    p, wide = half(1.0, -2.0, 0.5), nn.Parameter(gpucnn.tensor(np.array([1.0, -2.0, 0.5], np.float32)))
    first, second = make([p], lr=0.01), make([wide], lr=0.01)
    for step in range(5):
        values = np.array([0.1, -step, 2.0], np.float16)
        give(p, *values)
        wide.grad = gpucnn.tensor(values.astype(np.float32))
        first.step()
        second.step()
    state = first.state_dict()["state"]
    assert {str(array.dtype) for name, array in state.items() if not name.startswith("step.")} == {"float32"}
    assert_close(state["master.0"], wide.numpy(), 1e-6)
    assert np.array_equal(p.numpy(), wide.numpy().astype(np.float16))


def test_gradients_are_divided_by_the_scale_of_the_loss(backend: Backend) -> None:
    scale = gpucnn.tensor(np.array(1024, np.float32))
    tiny = 2.0**-30  # in float16, 0
    p, wide = half(0.0), nn.Parameter(gpucnn.tensor([0.0]))
    for parameter, dtype in ((p, "float16"), (wide, "float32")):
        parameter.grad = gpucnn.tensor(np.array([tiny * 1024], dtype))
        optimizer = optim.SGD([parameter], lr=2.0**20)
        optimizer.step(scale=scale)
        assert parameter.item() == -tiny * 2**20


def test_values_set_from_outside_are_where_the_next_step_starts(backend: Backend) -> None:
    p, other = half(1.0), half(5.0)
    optimizer = optim.SGD([p, other], lr=1.0)
    give(p, 0.25)
    optimizer.step()
    with no_grad():
        p.copy_(gpucnn.tensor([8.0]))
    give(p, 0.25)
    give(other, 0.5)
    optimizer.step()
    assert (p.item(), other.item()) == (7.75, 4.5)


def test_a_false_condition_changes_nothing(backend: Backend) -> None:
    p = half(1.0)
    optimizer = optim.Adam([p], lr=0.1)
    give(p, float("inf"))
    optimizer.step(where=gpucnn.tensor(np.array(False)))
    assert p.item() == 1
    give(p, 1.0)
    optimizer.step(where=gpucnn.tensor(np.array(True)))
    assert np.isfinite(p.item())
    assert p.item() < 1


@pytest.mark.parametrize("weights_first", [True, False])
def test_the_state_holds_what_float16_forgets(backend: Backend, weights_first: bool) -> None:
    def make() -> tuple[nn.Parameter, optim.Optimizer]:
        p = half(1.0)
        return p, optim.SGD([p], lr=1e-4, momentum=0.9)

    def steps(p: nn.Parameter, optimizer: optim.Optimizer, count: int) -> None:
        for _ in range(count):
            give(p, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    p, optimizer = make()
    steps(p, optimizer, 3)
    again, second = make()
    weights, state = p.detach().numpy(), optimizer.state_dict()
    for is_weights in (weights_first, not weights_first):
        if is_weights:
            with no_grad():
                again.copy_(gpucnn.tensor(weights))
        else:
            second.load_state_dict(state)
    steps(p, optimizer, 4)
    steps(again, second, 4)
    found, other = optimizer.state_dict()["state"], second.state_dict()["state"]
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in other.items()}
    assert "master.0" in found
    assert again.item() == p.item()
