"""Parameters inside an optimiser's flat buffers; what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, no_grad, optim
from gpucnn.backend import Backend
from gpucnn.errors import (
    CheckpointError,
    DTypeError,
    GpucnnError,
    GraphError,
    MixedDeviceError,
    ParameterError,
    ShapeError,
)


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(gpucnn.tensor(list(values)))


@pytest.fixture
def bound(backend: Backend) -> tuple[nn.Parameter, nn.Parameter, optim.SGD]:
    a, b = parameter(1.0, 2.0), parameter(3.0)
    return a, b, optim.SGD([a, b], lr=0.5)


Bound = tuple[nn.Parameter, nn.Parameter, optim.SGD]


def test_rebinding_is_refused(bound: Bound) -> None:
    a, _, optimizer = bound
    with pytest.raises(GraphError, match=r"belongs to an optimiser and cannot be replaced.*copy_"):
        a.array = a.array * 2
    assert a.tolist() == [1, 2]
    with no_grad():
        a.copy_(gpucnn.tensor([5.0, 6.0]))
        a[0] = 7.0
        a *= 2
    (a * 1).sum().backward()
    optimizer.step()
    assert a.tolist() == [13.5, 11.5]


def test_binding_keeps_values_and_gradients(backend: Backend) -> None:
    a = parameter(1.0, 2.0)
    (a * 3).sum().backward()
    optimizer = optim.SGD([a], lr=0.5)
    assert a.tolist() == [1, 2]
    assert a.grad is not None
    assert a.grad.tolist() == [3, 3]
    optimizer.step()
    assert a.tolist() == [-0.5, 0.5]


def test_zero_grad_keeps_the_memory(bound: Bound) -> None:
    a, b, optimizer = bound
    (a.sum() + b.sum()).backward()
    assert a.grad is not None
    memory, values = a.grad.array, a.array
    optimizer.zero_grad()
    assert a.grad is None
    assert b.grad is None
    (a * 2).sum().backward()
    (a * 2).sum().backward()
    assert a.grad is not None
    assert a.grad.array is memory
    assert a.grad.tolist() == [4, 4]
    optimizer.step()
    assert a.array is values


def test_setting_the_gradient_to_none_is_zero_grad(bound: Bound) -> None:
    a, b, optimizer = bound
    (a.sum() + b.sum()).backward()
    a.grad = None
    optimizer.step()
    assert (a.tolist(), b.tolist()) == ([1, 2], [2.5])


def test_assigning_a_gradient_copies_it(bound: Bound) -> None:
    a, _, optimizer = bound
    given = gpucnn.tensor([10.0, 20.0])
    a.grad = given
    given[...] = 0.0
    optimizer.step()
    assert a.tolist() == [-4, -8]


@pytest.mark.parametrize("is_bound", [True, False])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (lambda: gpucnn.tensor([1.0]), ShapeError),
        (lambda: gpucnn.tensor([[1.0, 1.0]]), ShapeError),
        (lambda: gpucnn.tensor([1.0, 1.0], dtype="float64"), DTypeError),
        (lambda: np.ones(2, np.float32), DTypeError),
        (lambda: [1.0, 1.0], DTypeError),
    ],
)
def test_a_gradient_that_does_not_fit_is_refused(
    backend: Backend, is_bound: bool, value: Callable[[], Any], error: type[GpucnnError]
) -> None:
    a = parameter(1.0, 2.0)
    if is_bound:
        optim.SGD([a], lr=0.5)
    (a * 3).sum().backward()
    with pytest.raises(error, match="grad: value"):
        a.grad = value()
    assert a.grad is not None
    assert a.grad.tolist() == [3, 3]


def test_a_gradient_of_another_device_is_refused(standin: Backend) -> None:
    a = parameter(1.0, 2.0)
    optim.SGD([a], lr=0.5)
    with pytest.raises(MixedDeviceError, match="grad: value"):
        a.grad = gpucnn.tensor([1.0, 1.0], device="cuda")


def test_a_second_optimiser_finds_the_store_as_it_is(bound: Bound) -> None:
    a, b, first = bound
    store = a.store
    second = optim.Adam([a, b], lr=0.5)
    assert (a.store, b.store) == (store, store)
    (a.sum() + b.sum()).backward()
    first.step()
    second.step()
    assert np.allclose([*a.numpy(), *b.numpy()], [0, 1, 2], atol=1e-6)


def test_optimisers_of_other_groups_work_in_turn(bound: Bound) -> None:
    a, b, first = bound
    second = optim.SGD([b], lr=0.5, momentum=0.5)
    for _ in range(2):
        for one in (first, second):
            first.zero_grad()
            (a.sum() + b.sum()).backward()
            one.step()
    assert np.allclose(a.numpy(), [0, 1])
    assert np.allclose(b.numpy(), 3 - 2 * 0.5 - 0.5 * (1 + 1.5))


def test_parameters_that_were_moved_are_named(bound: Bound) -> None:
    a, b, optimizer = bound
    (a.sum() + b.sum()).backward()
    b.move_(b.detach().to("float64"))
    with pytest.raises(GraphError, match=r"SGD.step: parameter 1 was moved from .* float32 to .* float64"):
        optimizer.step()
    assert a.tolist() == [1, 2]


def test_parameters_of_several_dtypes_and_devices(standin: Backend) -> None:
    parameters = [
        nn.Parameter(gpucnn.tensor([1.0], dtype=dtype, device=device))
        for dtype in ("float32", "float64")
        for device in ("cpu", "cuda", "cpu")
    ]
    optimizer = optim.Adam(parameters, lr=0.5)
    for p in parameters:
        (p * 2).sum().backward()
    optimizer.step()
    assert np.allclose([p.item() for p in parameters], 0.5)
    assert list(optimizer.state_arrays())[:2] == ["exp_avg.0", "exp_avg_sq.0"]
    assert optim.SGD([nn.Parameter(gpucnn.tensor(np.zeros((0, 3))))], lr=1.0).step() is None


def test_state_is_named_as_the_parameters_are(backend: Backend) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, name="out"))
    names = list(optim.SGD(net.named_parameters(), lr=0.1).state_arrays())
    assert names == [f"momentum_buffer.{name}" for name, _ in net.named_parameters()]


Make = Callable[[nn.Parameter, nn.Parameter], Any]
MISTAKES: dict[str, tuple[Make, str]] = {
    "no parameter": (lambda a, b: optim.SGD([], lr=0.1), "SGD: params: expected at least one parameter"),
    "a parameter, not a list": (lambda a, b: optim.SGD(a, lr=0.1), r"Write \[parameter\]"),
    "a number": (lambda a, b: optim.SGD(5, lr=0.1), "params"),
    "None": (lambda a, b: optim.Adam(None), "params"),
    "a tensor": (lambda a, b: optim.SGD([a, gpucnn.tensor([1.0])], lr=0.1), "expected Parameters, got Tensor"),
    "a model": (lambda a, b: optim.SGD(nn.Linear(1, 1), lr=0.1), "params"),
    "one twice": (lambda a, b: optim.SGD([a, b, a], lr=0.1), "each parameter once"),
    "one name twice": (lambda a, b: optim.SGD([("w", a), ("w", b)], lr=0.1), "w"),
    "a group without params": (lambda a, b: optim.SGD([{"params": [a]}, {"lr": 1.0}], lr=0.1), "params"),
    "a group among parameters": (lambda a, b: optim.SGD([{"params": [a]}, b], lr=0.1), "params"),
    "a group with an unknown option": (
        lambda a, b: optim.SGD([{"params": [a]}, {"params": [b], "rate": 1}], lr=0.1), "options among.*rate"),
    "a group with a wrong number": (
        lambda a, b: optim.SGD([{"params": [a]}, {"params": [b], "lr": -1}], lr=0.1), "SGD: lr: .*got -1"),
    "lr below 0": (lambda a, b: optim.SGD([a], lr=-0.1), "SGD: lr: expected a finite number of at least 0, got -0.1"),
    "lr as text": (lambda a, b: optim.Adam([a], lr="0.1"), "Adam: lr: .*got '0.1'"),
    "lr None": (lambda a, b: optim.Adam([a], lr=None), "Adam: lr"),
    "lr not a number": (lambda a, b: optim.SGD([a], lr=float("nan")), "SGD: lr"),
    "lr infinite": (lambda a, b: optim.Adam([a], lr=float("inf")), "Adam: lr: expected a finite number.*got inf"),
    "eps infinite": (lambda a, b: optim.Adam([a], eps=float("inf")), "Adam: eps: .*got inf"),
    "lr True": (lambda a, b: optim.SGD([a], lr=True), "SGD: lr"),
    "momentum below 0": (lambda a, b: optim.SGD([a], 0.1, momentum=-1), "SGD: momentum"),
    "decay below 0": (lambda a, b: optim.SGD([a], 0.1, weight_decay=-1), "SGD: weight_decay"),
    "Nesterov without momentum": (lambda a, b: optim.SGD([a], 0.1, nesterov=True), "SGD: nesterov: .*momentum above 0"),
    "beta 1": (lambda a, b: optim.Adam([a], betas=(0.9, 1.0)), "Adam: betas: .*below 1, got 1.0"),
    "one beta": (lambda a, b: optim.Adam([a], betas=(0.9,)), "Adam: betas: expected two numbers"),
    "a number as betas": (lambda a, b: optim.Adam([a], betas=0.9), "Adam: betas"),
    "eps below 0": (lambda a, b: optim.Adam([a], eps=-1e-8), "Adam: eps"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_an_optimiser_that_cannot_be_made_takes_nothing(bound: Bound, name: str) -> None:
    a, b, owner = bound
    make, words = MISTAKES[name]
    with pytest.raises(ParameterError, match=words):
        make(a, b)
    (a.sum() + b.sum()).backward()
    owner.step()
    assert (a.tolist(), b.tolist()) == ([0.5, 1.5], [2.5])


SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"total_steps": 0}, "total_steps"),
    "steps as float": ({"total_steps": 10.0}, "total_steps"),
    "steps True": ({"total_steps": True}, "total_steps"),
    "max_lr below 0": ({"max_lr": -1}, "max_lr"),
    "max_lr as list": ({"max_lr": [0.1]}, "max_lr"),
    "pct_start above 1": ({"pct_start": 1.5}, "pct_start"),
    "div_factor 0": ({"div_factor": 0}, "div_factor"),
    "final_div_factor 0": ({"final_div_factor": 0}, "final_div_factor"),
    "base_momentum as text": ({"base_momentum": "a"}, "base_momentum"),
    "max_momentum 1": ({"max_momentum": 1.0}, "max_momentum"),
    "no optimiser": ({"optimizer": 5}, "optimizer"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_cannot_be_made_changes_nothing(bound: Bound, name: str) -> None:
    settings, words = SCHEDULES[name]
    before = copy.deepcopy(bound[2].state_dict()["param_groups"])
    with pytest.raises(ParameterError, match=f"OneCycleLR: {words}"):
        optim.lr_scheduler.OneCycleLR(**{"optimizer": bound[2], "max_lr": 0.1, "total_steps": 10, **settings})
    assert bound[2].state_dict()["param_groups"] == before


def test_a_schedule_ends_after_its_steps(bound: Bound) -> None:
    schedule = optim.lr_scheduler.OneCycleLR(bound[2], max_lr=0.1, total_steps=5)
    for _ in range(5):
        schedule.step()
    with pytest.raises(ParameterError, match="OneCycleLR: step: expected at most 5 steps"):
        schedule.step()


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a missing array": lambda s: s["state"].pop("exp_avg.0"),
    "an unknown array": lambda s: s["state"].update({"exp_avg.7": np.ones(2)}),
    "another shape": lambda s: s["state"].update({"exp_avg.0": np.ones(3)}),
    "a list": lambda s: s["state"].update({"exp_avg.0": [1.0, 1.0]}),
    "texts": lambda s: s["state"].update({"exp_avg.1": np.array(["a"])}),
    "no groups": lambda s: s.pop("param_groups"),
    "one group more": lambda s: s["param_groups"].append({}),
    "a wrong hyper-parameter": lambda s: s["param_groups"][0].update(lr="fast"),
    "an unknown hyper-parameter": lambda s: s["param_groups"][0].update(rate=1.0),
    "no steps": lambda s: s.pop("steps"),
    "steps as text": lambda s: s.update(steps="many"),
    "no state": lambda s: s.pop("state"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_loading_what_does_not_fit_changes_nothing(backend: Backend, name: str) -> None:
    a, b = parameter(1.0, 2.0), parameter(3.0)
    optimizer = optim.Adam([a, b], lr=0.25)
    (a.sum() + b.sum()).backward()
    optimizer.step()
    state, before = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    state["state"]["exp_avg.1"] = state["state"]["exp_avg.1"] + 1  # fits, and must not be taken over either
    state["param_groups"][0]["lr"] = 0.75
    BROKEN[name](state)
    with pytest.raises(CheckpointError, match=r"Adam\.load_state_dict"):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["steps"] == before["steps"]
    assert after["param_groups"] == before["param_groups"]
    assert all(np.array_equal(after["state"][key], value) for key, value in before["state"].items())
