"""Initial values: their distribution, their seed, and PyTorch's gains and fans."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Generator, nn
from gpucnn.backend import Backend
from gpucnn.errors import DTypeError, GpucnnError, ParameterError
from gpucnn.nn import init

SHAPE = (40, 30, 3, 2)
FAN_IN, FAN_OUT = 180, 240
SPREAD: dict[str, tuple[Callable[..., Any], float, bool]] = {
    "uniform": (lambda t: init.uniform_(t, -2, 2), 2 / math.sqrt(3), True),
    "normal": (lambda t: init.normal_(t, 0, 0.5), 0.5, False),
    "xavier_uniform": (lambda t: init.xavier_uniform_(t, 2), 2 * math.sqrt(2 / (FAN_IN + FAN_OUT)), True),
    "xavier_normal": (init.xavier_normal_, math.sqrt(2 / (FAN_IN + FAN_OUT)), False),
    "kaiming_uniform": (init.kaiming_uniform_, math.sqrt(2 / FAN_IN), True),
    "kaiming_normal": (lambda t: init.kaiming_normal_(t, 0.0, "fan_out", "tanh"), 5 / 3 / math.sqrt(FAN_OUT), False),
}  # fmt: skip


@pytest.mark.parametrize("name", SPREAD)
def test_spread(backend: Backend, name: str) -> None:
    gpucnn.manual_seed(1)
    function, std, is_bounded = SPREAD[name]
    tensor = gpucnn.tensor(np.zeros(SHAPE, np.float32))
    assert function(tensor) is tensor
    values = tensor.numpy()
    assert abs(values.mean()) < 0.05 * std
    assert values.std() == pytest.approx(std, rel=0.03)
    assert (abs(values).max() <= std * math.sqrt(3)) == is_bounded


@pytest.mark.parametrize("nonlinearity", ["linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu"])
def test_gains_are_pytorchs(nonlinearity: str) -> None:
    torch = pytest.importorskip("torch")
    assert init.calculate_gain(nonlinearity) == pytest.approx(torch.nn.init.calculate_gain(nonlinearity))
    assert init.fans(gpucnn.tensor(np.zeros(SHAPE))) == (FAN_IN, FAN_OUT)


def test_a_generator_of_ones_own_leaves_the_default_alone(backend: Backend) -> None:
    gpucnn.manual_seed(2)
    expected = init.normal_(gpucnn.tensor(np.zeros(5))).tolist()
    gpucnn.manual_seed(2)
    own = init.normal_(gpucnn.tensor(np.zeros(5)), generator=Generator(2)).tolist()
    assert own == init.normal_(gpucnn.tensor(np.zeros(5))).tolist() == expected
    assert init.normal_(gpucnn.tensor(np.zeros(5))).tolist() != expected


def test_parameters_in_and_out_of_an_optimiser_are_filled_in_place(backend: Backend) -> None:
    parameter = nn.Parameter(gpucnn.tensor([1.0, 2.0]))
    gpucnn.optim.SGD([parameter], lr=0.1)
    init.constant_(parameter, 3)
    assert parameter.tolist() == [3, 3]
    assert init.ones_(parameter).tolist() == [1, 1]
    assert init.zeros_(parameter).tolist() == [0, 0]


def test_a_seed_is_checked() -> None:
    for seed in (-1, 1.5, "a", None, True, 2**63):
        with pytest.raises(ParameterError, match="seed"):
            gpucnn.manual_seed(seed)  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match="Generator: seed"):
            Generator(seed)  # type: ignore[arg-type]


MISTAKES: dict[str, Callable[[Any], Any]] = {
    "one dimension": lambda t: init.xavier_uniform_(t[0, 0, 0]),
    "no elements": lambda t: init.kaiming_normal_(t[:, :0]),
    "mode": lambda t: init.kaiming_normal_(t, mode="fan"),
    "nonlinearity": lambda t: init.calculate_gain("wave"),
    "nonlinearity None": lambda t: init.kaiming_uniform_(t, nonlinearity=None),
    "text as constant": lambda t: init.constant_(t, "a"),
    "std below 0": lambda t: init.normal_(t, 0, -1),
    "bounds in the wrong order": lambda t: init.uniform_(t, 1, 0),
    "bound as text": lambda t: init.uniform_(t, "a", 1),
    "a bound without end": lambda t: init.uniform_(t, 0, math.inf),
    "gain None": lambda t: init.xavier_normal_(t, None),
    "a list": lambda t: init.zeros_([1.0]),
    "an array": lambda t: init.normal_(np.zeros(3)),
    "integers": lambda t: init.uniform_(gpucnn.tensor([1, 2])),
    "a seed as generator": lambda t: init.uniform_(t, generator=5),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(backend: Backend, name: str) -> None:
    tensor = gpucnn.tensor(np.ones((2, 3, 1, 1), np.float32))
    with pytest.raises(GpucnnError, match=r".+: .+"):
        MISTAKES[name](tensor)
    assert (tensor.numpy() == 1).all()
    assert issubclass(DTypeError, GpucnnError)


def test_truncated_normal_stays_inside_and_keeps_its_shape(backend: Backend) -> None:
    values = init.trunc_normal_(gpucnn.tensor(np.zeros((200, 50))), std=1.0, a=-1.0, b=0.5).numpy()
    assert values.min() >= -1
    assert values.max() <= 0.5
    inside = np.random.default_rng(0).standard_normal(10**6)
    inside = inside[(inside >= -1) & (inside <= 0.5)]
    assert abs(values.mean() - inside.mean()) < 0.02
    assert abs(values.std() - inside.std()) < 0.02


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 2, 3, 3)])
def test_orthogonal_has_orthonormal_rows_or_columns(backend: Backend, shape: tuple[int, ...]) -> None:
    w = init.orthogonal_(gpucnn.tensor(np.zeros(shape)), gain=2.0).numpy().reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)


def test_the_smart_one_has_the_spread_of_its_kernel(backend: Backend) -> None:
    w = init.smart_normal_(gpucnn.tensor(np.zeros((500, 8, 3, 3)))).numpy()
    assert abs(w.std() / (2 / (9 * 8)) ** 0.5 - 1) < 0.02


@pytest.mark.parametrize("name", init.INITIALISERS)
def test_by_name(backend: Backend, name: str) -> None:
    options = {"value": 0.5} if name == "constant" else {}
    weight = gpucnn.tensor(np.full((6, 4), 9.0))
    assert init.initialise(weight, name, **options) is weight
    assert not (weight.numpy() == 9).any()


def test_an_unknown_initialiser_is_named() -> None:
    with pytest.raises(ParameterError, match="Did you mean orthogonal"):
        init.initialise(gpucnn.tensor([[0.0]]), "ortogonal")
