"""Optimisers and schedules take PyTorch's path: 50 steps in float64, within 1e-6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, no_grad, optim
from gpucnn.backend import Backend
from gpucnn.errors import CheckpointError, ParameterError

RNG = np.random.default_rng(11)
FIRST, SECOND, THIRD = RNG.standard_normal((3, 4)), RNG.standard_normal(4), RNG.standard_normal((2, 2))
TARGETS = [RNG.standard_normal(a.shape) for a in (FIRST, SECOND, THIRD)]
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.05}),
    "SGD, decay": ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    "SGD, momentum": ("SGD", {"lr": 0.02, "momentum": 0.9}),
    "SGD, Nesterov": ("SGD", {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    "Adam": ("Adam", {"lr": 0.03}),
    "AdamW": ("AdamW", {"lr": 0.03}),
    "AdamW, decay": ("AdamW", {"lr": 0.03, "weight_decay": 0.2, "betas": (0.8, 0.9)}),
    "Adagrad": ("Adagrad", {"lr": 0.1}),
    "Adagrad, all": (
        "Adagrad", {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-4}
    ),
    "RMSprop": ("RMSprop", {"lr": 0.01}),
    "RMSprop, all": (
        "RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1, "momentum": 0.5, "centered": True}
    ),
    "Adadelta": ("Adadelta", {}),
    "Adadelta, all": ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1}),
    "SGD, maximize": ("SGD", {"lr": 1e-4, "momentum": 0.5, "weight_decay": 0.1, "maximize": True}),
    "Adam, amsgrad": ("Adam", {"lr": 0.3, "betas": (0.5, 0.6), "amsgrad": True}),
    "AdamW, amsgrad, maximize": ("AdamW", {"lr": 0.03, "betas": (0.5, 0.6), "amsgrad": True, "maximize": True}),
    "Adagrad, maximize": ("Adagrad", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    "RMSprop, maximize": ("RMSprop", {"lr": 0.01, "momentum": 0.3, "centered": True, "maximize": True}),
    "Adadelta, maximize": ("Adadelta", {"lr": 0.5, "weight_decay": 0.1, "maximize": True}),
    "Adam, all": ("Adam", {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
}  # fmt: skip


class Walk:
    """The same parameters, losses and optimiser in gpucnn or PyTorch; a loss may leave parameters out."""

    def __init__(self, torch: Any = None) -> None:
        self.torch = torch
        make = torch.tensor if torch else gpucnn.tensor
        kind = torch.nn.Parameter if torch else nn.Parameter
        self.parameters = [kind(make(a.copy())) for a in (FIRST, SECOND, THIRD)]
        self.targets = [make(a) for a in TARGETS]

    def optimiser(self, name: str, settings: dict[str, Any], groups: list[dict[str, Any]] | None = None) -> Any:
        return getattr(self.torch.optim if self.torch else optim, name)(groups or self.parameters, **settings)

    def step(self, optimizer: Any, used: tuple[int, ...] = (0, 1, 2)) -> None:
        optimizer.zero_grad()
        sum((((self.parameters[i] - self.targets[i]) ** 4).sum() for i in used[1:]),
            ((self.parameters[used[0]] - self.targets[used[0]]) ** 4).sum()).backward()  # fmt: skip
        optimizer.step()

    def values(self) -> list[Any]:
        return [p.detach().numpy().copy() for p in self.parameters]


def assert_same(ours: Walk, theirs: Walk) -> None:
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        assert np.abs(a - b).max() <= 1e-6 * max(np.abs(b).max(), 1e-3)


@pytest.fixture
def walks(backend: Backend) -> tuple[Walk, Walk]:
    torch = pytest.importorskip("torch")
    return Walk(), Walk(torch)


@pytest.mark.parametrize("name", SETTINGS)
def test_fifty_steps(walks: tuple[Walk, Walk], name: str) -> None:
    optimizers = [walk.optimiser(*SETTINGS[name]) for walk in walks]
    for _ in range(50):
        for walk, optimizer in zip(walks, optimizers, strict=True):
            walk.step(optimizer)
        assert_same(*walks)


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_without_a_gradient_are_left_alone(walks: tuple[Walk, Walk], name: str) -> None:
    optimizers = [walk.optimiser(*SETTINGS[name]) for walk in walks]
    for step in range(30):  # the first is unused now and then, the second is used late, the third until then
        used = tuple(i for i, is_used in enumerate((step % 3 > 0, step >= 10, step < 10)) if is_used)
        for walk, optimizer in zip(walks, optimizers, strict=True):
            walk.step(optimizer, used or (1,))
        assert_same(*walks)


@pytest.mark.parametrize("name", ["SGD, momentum", "Adam"])
def test_frozen_parameters_stay_and_move_again(walks: tuple[Walk, Walk], name: str) -> None:
    optimizers = [walk.optimiser(*SETTINGS[name]) for walk in walks]
    for step in range(20):
        for walk, optimizer in zip(walks, optimizers, strict=True):
            walk.parameters[0].requires_grad_(step >= 8)
            walk.step(optimizer)
        assert_same(*walks)
        if step < 8:
            assert np.array_equal(walks[0].values()[0], FIRST)


def test_groups_have_hyperparameters_of_their_own(walks: tuple[Walk, Walk]) -> None:
    def groups(walk: Walk) -> list[dict[str, Any]]:
        a, b, c = walk.parameters
        return [{"params": [a, c], "lr": 0.01}, {"params": [b], "momentum": 0.5, "weight_decay": 0.2}]

    optimizers = [walk.optimiser("SGD", {"lr": 0.05}, groups(walk)) for walk in walks]
    for step in range(30):
        for walk, optimizer in zip(walks, optimizers, strict=True):
            optimizer.param_groups[1]["lr"] = 0.05 / (step + 1)
            walk.step(optimizer)
        assert_same(*walks)


@pytest.mark.bits
@pytest.mark.parametrize("name", SETTINGS)
def test_a_saved_optimiser_goes_on_where_it_was(backend: Backend, name: str) -> None:
    ours, resumed = Walk(), Walk()
    optimizer = ours.optimiser(*SETTINGS[name])
    for step in range(7):
        ours.step(optimizer, (0, 1, 2) if step > 3 else (0, 1))
    saved = optimizer.state_dict()
    kind, settings = SETTINGS[name]
    again = resumed.optimiser(kind, {"lr": 0.5, **{key: settings[key] for key in {"amsgrad"} & settings.keys()}})
    with no_grad():
        for mine, theirs in zip(resumed.parameters, ours.parameters, strict=True):
            mine.copy_(theirs)
    again.load_state_dict(saved)
    for _ in range(7):
        ours.step(optimizer)
        resumed.step(again)
    assert all(np.array_equal(a, b) for a, b in zip(ours.values(), resumed.values(), strict=True))
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pct_start": 0.5, "div_factor": 10, "final_div_factor": 100},
        {"cycle_momentum": False},
        {"base_momentum": 0.6, "max_momentum": 0.9, "pct_start": 0.1},
        {"pct_start": 0.0},
    ],
)
@pytest.mark.parametrize("make", ["SGD", "Adam"])
@pytest.mark.parametrize("total", [1, 2, 7, 50])
def test_one_cycle(backend: Backend, settings: dict[str, Any], make: str, total: int) -> None:
    torch = pytest.importorskip("torch")
    options: dict[str, Any] = {"momentum": 0.9} if make == "SGD" else {}
    ours = getattr(optim, make)([nn.Parameter(gpucnn.tensor(FIRST))], lr=1.0, **options)
    theirs = getattr(torch.optim, make)([torch.nn.Parameter(torch.tensor(FIRST))], lr=1.0, **options)
    try:
        their_schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=total, **settings)
    except ZeroDivisionError:
        pytest.skip("PyTorch divides by zero here")
    schedule = optim.lr_scheduler.OneCycleLR(ours, 0.1, total_steps=total, **settings)
    for step in range(total):
        group, their_group = ours.param_groups[0], theirs.param_groups[0]
        assert group["lr"] == pytest.approx(their_group["lr"], rel=1e-9, abs=1e-15)
        for key in ("momentum", "betas"):
            assert group.get(key) == (pytest.approx(their_group[key]) if key in group else None)
        if step < total - 1:
            theirs.step()
            their_schedule.step()
        schedule.step()


def test_amsgrad_is_for_all_parameters_or_none() -> None:
    a, b = nn.Parameter(gpucnn.tensor(FIRST)), nn.Parameter(gpucnn.tensor(SECOND))
    with pytest.raises(
        ParameterError, match=r"Adam: amsgrad: expected the same for all parameters, got amsgrad=True in"
    ):
        optim.Adam([{"params": [a]}, {"params": [b], "amsgrad": True}])
    with pytest.raises(ParameterError, match="maximize: expected"):
        optim.SGD([a], maximize="yes")  # type: ignore[arg-type]
    saved = optim.Adam([a], amsgrad=True).state_dict()
    with pytest.raises(CheckpointError, match="amsgrad=True in a group"):
        optim.Adam([a]).load_state_dict(saved)


@pytest.mark.parametrize(("total", "pct"), [(10, 0.1), (1, 0.5), (2, 0.5), (20, 0.05), (1, 0.0)])
def test_one_cycle_with_a_rise_of_no_length(backend: Backend, total: int, pct: float) -> None:
    optimizer = optim.SGD([nn.Parameter(gpucnn.tensor(FIRST))], lr=1.0)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total, pct_start=pct)
    for _ in range(total):
        assert 0 < optimizer.param_groups[0]["lr"] <= 0.1
        schedule.step()


def test_one_cycle_resumes(backend: Backend) -> None:
    def run(stops: bool) -> list[float]:
        optimizer = optim.Adam([nn.Parameter(gpucnn.tensor(FIRST))])
        schedule: Any = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
        rates = []
        for step in range(20):
            if stops and step == 9:
                saved = schedule.state_dict()
                schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
                schedule.load_state_dict(saved)
            rates.append(optimizer.param_groups[0]["lr"])
            schedule.step()
        return rates

    assert run(True) == run(False)


def test_a_step_that_is_flagged_makes_no_update(backend: Backend) -> None:
    for make in (lambda p: optim.SGD(p, 0.1, 0.9), optim.Adam, lambda p: optim.Adam(p, amsgrad=True)):
        walk = Walk()
        optimizer: Any = make(walk.parameters)
        walk.step(optimizer)
        before, state = walk.values(), optimizer.state_arrays()
        step: Callable[..., None] = optimizer.step
        optimizer.step = lambda step=step: step(gpucnn.tensor(False))
        walk.step(optimizer)
        assert all(np.array_equal(a, b) for a, b in zip(before, walk.values(), strict=True))
        for name, array in optimizer.state_arrays().items():  # steps are counted on the host, which sees no flag
            assert name.startswith("step.") or np.array_equal(state[name], array)
