"""Schedules take PyTorch's learning rates, and clipping PyTorch's gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend
from gpucnn.errors import CheckpointError, ParameterError

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


@pytest.mark.parametrize("first", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_first_measure_that_is_not_finite_is_not_the_best(mode: str, first: float) -> None:
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=1)
    better = [3.0, 2.0, 1.0] if mode == "min" else [1.0, 2.0, 3.0]
    for value in [first, *better, first, better[-1], first]:
        schedule.step(value)
    assert schedule.best == better[-1]
    assert optimizer.param_groups[0]["lr"] == 0.5, "three that are no better, after three that were"


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("by_hand", [0.02, 0.7])
def test_a_rate_set_by_hand_becomes_the_base_as_in_pytorch(
    optimizers: tuple[Any, Any, Any], name: str, by_hand: float
) -> None:
    if name == "warm-up, then cosine":
        pytest.skip("PyTorch's SequentialLR starts its second schedule from the first rate of all")
    ours, theirs, torch = optimizers
    mine, other = SCHEDULES[name](optim.lr_scheduler, ours), SCHEDULES[name](torch.optim.lr_scheduler, theirs)
    theirs.step()
    for step in range(15):
        if step == 5:
            ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = by_hand
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert a["lr"] == pytest.approx(b["lr"], rel=1e-6, abs=1e-12)
        mine.step()
        other.step()


@pytest.mark.parametrize("second", ["LinearLR", "CosineAnnealingLR", "StepLR"])
@pytest.mark.parametrize("first", ["ExponentialLR", "PolynomialLR", "LinearLR"])
def test_two_schedules_give_pytorchs_product(optimizers: tuple[Any, Any, Any], first: str, second: str) -> None:
    ours, theirs, torch = optimizers
    mine = [SCHEDULES[name](optim.lr_scheduler, ours) for name in (first, second)]
    others = [SCHEDULES[name](torch.optim.lr_scheduler, theirs) for name in (first, second)]
    theirs.step()
    for _ in range(15):
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert a["lr"] == pytest.approx(b["lr"], rel=1e-6, abs=1e-12)
        for one in (*mine, *others):
            one.step()


def test_one_cycle_and_a_second_schedule_both_count() -> None:
    def rates(*names: str) -> list[float]:
        optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
        make = {
            "cycle": lambda: optim.lr_scheduler.OneCycleLR(optimizer, 0.5, 20),
            "step": lambda: optim.lr_scheduler.StepLR(optimizer, 5, 0.5),
        }
        schedules, found = [make[name]() for name in names], []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["lr"])
            for one in schedules:
                one.step()
        return found

    halves = [0.5 ** (step // 5) for step in range(20)]
    assert rates("cycle", "step") == pytest.approx([a * b for a, b in zip(rates("cycle"), halves, strict=True)])


def test_a_state_with_a_rate_set_by_hand_goes_on_with_the_same_bits(optimizers: tuple[Any, Any, Any]) -> None:
    module = optim.lr_scheduler

    def pair(optimizer: Any) -> list[Any]:
        return [module.CosineAnnealingLR(optimizer, 30, 0.01), module.ExponentialLR(optimizer, 0.9)]

    ours, _, _ = optimizers
    mine = pair(ours)
    for step in range(6):
        if step == 3:
            ours.param_groups[1]["lr"] = 0.3
        for one in mine:
            one.step()
    ours.param_groups[0]["lr"] = 0.123
    states = [one.state_dict() for one in mine]
    for order in ((0, 1), (1, 0)):
        twin = two_groups(optim, nn.Parameter, gpucnn.tensor)
        again = pair(twin)
        for number in order:
            again[number].load_state_dict(json.loads(json.dumps(states[number])))
        assert [g["lr"] for g in twin.param_groups] == [g["lr"] for g in ours.param_groups]
        found = []
        for _ in range(4):
            for one in again:
                one.step()
            found.append([g["lr"] for g in twin.param_groups])
        if order == (0, 1):
            expected = found
    for rates in expected:
        for one in mine:
            one.step()
        assert [g["lr"] for g in ours.param_groups] == rates
    assert found == expected


def test_a_schedule_of_the_users_own_and_one_that_waits_for_a_measure() -> None:
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    assert (plateau.needs_measure, optim.lr_scheduler.StepLR(optimizer, 2).needs_measure) == (True, False)
    with pytest.raises(ParameterError, match="schedules that count steps, got one that needs a metric"):
        optim.lr_scheduler.SequentialLR(optimizer, [plateau], [])
    with pytest.raises(CheckpointError, match="base_lrs: expected 1 numbers, got 2"):
        optim.lr_scheduler.StepLR(optimizer, 2).load_state_dict({"steps": 1, "base_lrs": [1.0, 2.0]})


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


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float16", [300.0, -400.0]),
        ("float16", [3e-4, -4e-4]),
        ("float16", [6e4] * 1000),
        ("float32", [3e25, -4e25]),
        ("float32", [3e-25, -4e-25]),
    ],
)
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0])
def test_a_norm_whose_powers_overflow_or_vanish(
    backend: Backend, dtype: str, values: list[float], norm_type: float
) -> None:
    p = nn.Parameter(gpucnn.tensor(np.zeros(len(values)), dtype=dtype))
    p.grad = gpucnn.tensor(values, dtype=dtype)
    exact = np.array(values, dtype).astype(np.float64)
    expected = float((np.abs(exact) ** norm_type).sum() ** (1 / norm_type))
    most = expected / 7
    norm = optim.clip_grad_norm_([p], most, norm_type)
    assert (norm.dtype, p.grad.dtype) == (np.float32, np.dtype(dtype))
    assert norm.item() == pytest.approx(expected, rel=1e-5)
    factor = most / (expected + 1e-6)
    if factor <= 1:
        np.testing.assert_allclose(
            p.grad.numpy(), (exact * factor).astype(dtype), rtol=2e-3 if dtype == "float16" else 1e-5
        )


def test_norms_that_are_zero_infinite_or_of_nothing(backend: Backend) -> None:
    for values, expected in (([0.0, 0.0], 0.0), ([float("inf"), 1.0], float("inf")), ([], 0.0)):
        p = nn.Parameter(gpucnn.tensor(np.array(values, np.float32)))
        p.grad = gpucnn.tensor(np.array(values, np.float32))
        assert optim.clip_grad_norm_([p], float("inf")).item() == expected
        assert p.grad.tolist() == values, "an infinite limit only measures"
    p.grad = gpucnn.tensor(np.zeros(0, np.float32))
    assert optim.clip_grad_norm_([p], 1.0).item() == 0


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
    with pytest.raises(Exception, match="Configure it before making one"):
        p.configure(lr_multiplier=2.0)
    assert p.configure(frozen=True).requires_grad is False
