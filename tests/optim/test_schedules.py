"""Schedules take PyTorch's learning rates, and clipping PyTorch's gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend
from gpucnn.errors import ParameterError

Make = Callable[[Any, Any], Any]

SCHEDULES: dict[str, Make] = {
    "StepLR": lambda s, o: s.StepLR(o, 4, 0.5),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [3, 7, 20], 0.3),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 25, 0.01),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 20, 2.0),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.2, 0.9, 8),
    "warm-up, then cosine": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 5), s.CosineAnnealingLR(o, 20)], [5]
    ),
}


def two_groups(module: Any, kind: Any, tensor: Any) -> Any:
    first, second = kind(tensor([1.0])), kind(tensor([1.0]))
    return module.SGD([{"params": [first], "lr": 0.5}, {"params": [second]}], lr=0.1)


@pytest.fixture
def optimizers() -> tuple[Any, Any, Any]:
    torch = pytest.importorskip("torch")
    return (
        two_groups(optim, nn.Parameter, gpucnn.tensor),
        two_groups(torch.optim, torch.nn.Parameter, torch.tensor),
        torch,
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_are_pytorchs(optimizers: tuple[Any, Any, Any], name: str) -> None:
    ours, theirs, torch = optimizers
    mine, other = SCHEDULES[name](optim.lr_scheduler, ours), SCHEDULES[name](torch.optim.lr_scheduler, theirs)
    theirs.step()  # PyTorch warns where a schedule moves before its optimiser
    for _ in range(25):
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert a["lr"] == pytest.approx(b["lr"], rel=1e-6, abs=1e-12)
        mine.step()
        other.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_state_goes_on_where_it_was(optimizers: tuple[Any, Any, Any], name: str) -> None:
    ours, _, _ = optimizers
    first = SCHEDULES[name](optim.lr_scheduler, ours)
    for _ in range(6):
        first.step()
    state, rates = first.state_dict(), [group["lr"] for group in ours.param_groups]
    again = two_groups(optim, nn.Parameter, gpucnn.tensor)
    second = SCHEDULES[name](optim.lr_scheduler, again)
    second.load_state_dict(state)
    assert [group["lr"] for group in again.param_groups] == rates
    first.step()
    second.step()
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in ours.param_groups]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("cooldown", [0, 2])
def test_plateaus_are_pytorchs(optimizers: tuple[Any, Any, Any], mode: str, threshold_mode: str, cooldown: int) -> None:
    ours, theirs, torch = optimizers
    options = {"mode": mode, "factor": 0.5, "patience": 2, "threshold": 0.05, "threshold_mode": threshold_mode}
    mine = optim.lr_scheduler.ReduceLROnPlateau(ours, cooldown=cooldown, min_lr=0.02, **options)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, cooldown=cooldown, min_lr=0.02, **options)
    for value in [*np.random.default_rng(3).uniform(0.5, 1.5, 40).tolist(), float("nan"), 0.1, 9.0]:
        mine.step(value)
        other.step(value)
        assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in theirs.param_groups])


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_by_norm_is_pytorchs(backend: Backend, norm_type: float, max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    values = [rng.standard_normal((3, 2)), rng.standard_normal(4)]
    ours, theirs = (
        [nn.Parameter(gpucnn.tensor(v)) for v in values],
        [torch.nn.Parameter(torch.tensor(v)) for v in values],
    )
    for parameters in (ours, theirs):
        sum((p**3).sum() for p in parameters[1:])
        ((parameters[0] ** 3).sum() + (parameters[1] ** 3).sum()).backward()
    norm = optim.clip_grad_norm_(ours, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert norm.item() == pytest.approx(expected.item())
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-6)


def test_clipping_by_value_cuts_each_element(backend: Backend) -> None:
    p = nn.Parameter(gpucnn.tensor([1.0, 1.0, 1.0]))
    (p * gpucnn.tensor([5.0, -0.5, -7.0])).sum().backward()
    optim.clip_grad_value_([p], 2.0)
    assert p.grad is not None
    assert p.grad.tolist() == [2.0, -0.5, -2.0]


def test_clipping_without_gradients_says_so() -> None:
    with pytest.raises(ParameterError, match="at least one with a gradient"):
        optim.clip_grad_norm_([nn.Parameter(gpucnn.tensor([1.0]))], 1.0)


def test_attributes_of_one_parameter(backend: Backend) -> None:
    plain, slow, decayed = (nn.Parameter(gpucnn.tensor([2.0, -1.0], dtype="float64")) for _ in range(3))
    slow.configure(lr_multiplier=0.5)
    decayed.configure(l1=0.1, l2=0.3)
    frozen = nn.Parameter(gpucnn.tensor([1.0])).configure(frozen=True)
    optimizer = optim.SGD([plain, slow, decayed, frozen], lr=0.1, weight_decay=0.2)
    (plain.sum() + slow.sum() + decayed.sum()).backward()
    optimizer.step()
    start = np.array([2.0, -1.0])
    np.testing.assert_allclose(plain.numpy(), start - 0.1 * (1 + 0.2 * start))
    np.testing.assert_allclose(slow.numpy(), start - 0.05 * (1 + 0.2 * start))
    np.testing.assert_allclose(decayed.numpy(), start - 0.1 * (1 + 0.1 * np.sign(start) + 0.5 * start))
    assert frozen.tolist() == [1.0]
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1


def test_attributes_are_set_before_the_optimiser(backend: Backend) -> None:
    p = nn.Parameter(gpucnn.tensor([1.0]))
    with pytest.raises(ParameterError, match="l2"):
        p.configure(l2=-1)
    optim.SGD([p])
    with pytest.raises(Exception, match="Configure it, then make one"):
        p.configure(lr_multiplier=2.0)
    assert p.configure(frozen=True).requires_grad is False
