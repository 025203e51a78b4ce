"""System 3: convolution by im2col, SimpleConvNet and its dictionaries."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import ROOT

import gpucnn
import gpucnn.functional as F
from gpucnn import inspect, models, nn, optim
from gpucnn.backend import Backend
from gpucnn.errors import ShapeError

PARAMETERS = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}


def drawn(*shape: int, seed: int = 0) -> gpucnn.Tensor:
    return gpucnn.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize(("images", "rows"), [(1, 9), (10, 90)])
def test_im2col_shapes(backend: Backend, images: int, rows: int) -> None:
    assert F.im2col(drawn(images, 3, 7, 7), (5, 5), stride=1, padding=0).shape == (rows, 75)


def test_col2im_is_the_adjoint(backend: Backend) -> None:
    x = drawn(2, 3, 7, 6)
    columns = F.im2col(x, (3, 2), 2, 1)
    other = drawn(*columns.shape, seed=1)
    left = (columns * other).sum().item()
    assert left == pytest.approx((x * F.col2im(other, x.shape, (3, 2), 2, 1)).sum().item(), rel=1e-4)


def test_a_size_that_does_not_divide_is_floored_or_an_error(backend: Backend) -> None:
    x = drawn(1, 1, 6, 6)
    assert F.im2col(x, 3, stride=2).shape == (4, 9)
    assert nn.Conv2d(1, 1, 3, stride=2)(x).shape == (1, 1, 2, 2)
    with pytest.raises(ShapeError, match="left over"):
        F.im2col(x, 3, stride=2, exact=True)
    with pytest.raises(ShapeError, match="left over"):
        nn.Conv2d(1, 1, 3, stride=2, exact=True)(x)


def test_the_network(backend: Backend) -> None:
    net = models.simple_convnet(**PARAMETERS, hidden=100, init_std=0.01)
    x, shapes = drawn(2, 1, 28, 28), []
    for layer in net.children():
        x = layer(x)
        shapes.append(x.shape[1:])
    assert shapes == [(30, 24, 24), (30, 24, 24), (30, 12, 12), (4320,), (100,), (100,), (10,)]


def test_initial_weights() -> None:
    gpucnn.manual_seed(0)
    state = models.simple_convnet(**PARAMETERS, hidden=100, init_std=0.01).state_dict()
    assert abs(state["4.weight"].std() / 0.01 - 1) < 0.01
    assert not any(values.any() for name, values in state.items() if name.endswith("bias"))


class Dictionaries:
    """System 3's interface around any network: what its users call, in a line or two each."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def predict(self, x: np.ndarray) -> np.ndarray:
        with gpucnn.no_grad():
            return self.net(gpucnn.tensor(x)).numpy()

    def loss(self, x: np.ndarray, t: np.ndarray) -> gpucnn.Tensor:
        return F.cross_entropy(self.net(gpucnn.tensor(x)), gpucnn.tensor(t))

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        self.net.zero_grad()
        self.loss(x, t).backward()
        return {name: p.grad.numpy() for name, p in self.net.named_parameters() if p.grad is not None}

    def accuracy(self, x: np.ndarray, t: np.ndarray) -> float:
        return float((self.predict(x).argmax(1) == t).mean())

    def numerical_gradient(self, x: np.ndarray, t: np.ndarray, name: str, place: tuple[int, ...]) -> float:
        values, losses = dict(self.net.named_parameters())[name], []
        with gpucnn.no_grad():
            before = values[place].item()
            for moved in (before + 1e-6, before - 1e-6, before):
                values[place] = moved
                losses.append(self.loss(x, t).item())
        return (losses[0] - losses[1]) / 2e-6

    def save(self, path: Path) -> None:
        np.savez(path, **self.net.state_dict())

    def load(self, path: Path) -> None:
        with np.load(path) as state:
            self.net.load_state_dict(state)


@pytest.fixture
def small() -> Dictionaries:
    gpucnn.manual_seed(0)
    net = models.simple_convnet(3, 1, 10, filter_num=4, filter_size=3, pad=1, hidden=8, init_std=0.3)
    return Dictionaries(net.to("float64"))


X, T = np.random.default_rng(0).standard_normal((5, 1, 10, 10)), np.array([0, 1, 2, 0, 1])


def test_gradients_are_the_numerical_ones(small: Dictionaries) -> None:
    gradients = small.gradient(X, T)
    assert set(gradients) == set(small.net.state_dict())
    for name, gradient in gradients.items():
        largest = np.unravel_index(abs(gradient).argmax(), gradient.shape)
        for place in (tuple(map(int, largest)), (0,) * gradient.ndim):
            assert small.numerical_gradient(X, T, name, place) == pytest.approx(gradient[place], rel=1e-4, abs=1e-9)


def test_predict_loss_accuracy(small: Dictionaries) -> None:
    assert small.predict(X).shape == (5, 3)
    assert small.loss(X, T).item() == pytest.approx(
        -np.mean([np.log(np.exp(row[t]) / np.exp(row).sum()) for row, t in zip(small.predict(X), T, strict=True)])
    )
    optimizer = optim.Adam(small.net.parameters(), lr=0.05)
    for _ in range(30):
        small.gradient(X, T)
        optimizer.step()
    assert small.accuracy(X, T) == 1


@pytest.mark.bits
def test_parameters_are_saved_and_loaded(small: Dictionaries, tmp_path: Path) -> None:
    small.save(tmp_path / "parameters.npz")
    wanted = small.predict(X)
    twin = Dictionaries(models.rebuild(models.describe(small.net)))
    assert abs(twin.predict(X) - wanted).max() > 1e-3
    twin.load(tmp_path / "parameters.npz")
    np.testing.assert_array_equal(twin.predict(X), wanted)


def test_a_filter_shows_horizontal_and_vertical_edges(backend: Backend) -> None:
    square = np.zeros((1, 8, 8), np.float32)
    square[0, 2:6, 2:6] = 1
    conv = nn.Conv2d(1, 2, (2, 2), bias=False)
    conv.load_state_dict({"weight": np.array([[[[-1, -1], [1, 1]]], [[[-1, 1], [-1, 1]]]], np.float32)})
    horizontal, vertical = conv(gpucnn.tensor(square)).numpy()
    assert horizontal[1].tolist() == [0, 1, 2, 2, 2, 1, 0]
    assert horizontal[3].tolist() == [0] * 7
    np.testing.assert_array_equal(vertical, horizontal.T)


@pytest.mark.parametrize(("layers", "sees", "weights", "single"), [(2, 5, 18, 25), (3, 7, 27, 49)])
def test_deeper_is_cheaper(layers: int, sees: int, weights: int, single: int) -> None:
    stack = nn.Sequential(*[nn.Conv2d(1, 1, 3, bias=False) for _ in range(layers)])
    wide = nn.Conv2d(1, 1, sees, bias=False)
    assert sum(p.size for p in stack.parameters()) == weights
    assert sum(p.size for p in wide.parameters()) == single
    x = drawn(1, 1, 9, 9).requires_grad_()
    y = stack(x)
    y[0, 0, y.shape[2] // 2, y.shape[3] // 2].backward()
    assert x.grad is not None
    rows, columns = np.nonzero(x.grad.numpy()[0, 0])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (sees, sees), "the pixels that one output pixel depends on"


@pytest.mark.parametrize(("layers", "sees", "weights", "single"), [(2, 5, 18, 25), (3, 7, 27, 49)])
def test_the_summary_shows_that_deeper_is_cheaper(layers: int, sees: int, weights: int, single: int) -> None:
    stack = inspect.summary(nn.Sequential(*[nn.Conv2d(1, 1, 3, bias=False) for _ in range(layers)]), (1, 9, 9))
    wide = inspect.summary(nn.Conv2d(1, 1, sees, bias=False), (1, 9, 9))
    assert (stack.parameters, wide.parameters) == (weights, single)
    assert stack.rows[-1].receptive_field == wide.rows[-1].receptive_field == (sees, sees)
    assert stack.rows[-1].output_shape == wide.rows[-1].output_shape == (1, 1, 10 - sees, 10 - sees)
    assert [row.multiply_adds for row in stack.rows] == [9 * (9 - 2 * (i + 1)) ** 2 for i in range(layers)]
    assert wide.multiply_adds == single * (10 - sees) ** 2
    assert [row.activation_bytes for row in stack.rows] == [4 * (9 - 2 * (i + 1)) ** 2 for i in range(layers)]


def test_filters_before_and_after_training_as_arrays(small: Dictionaries) -> None:
    before = inspect.filters(small.net)
    assert before.shape == (4, 1, 3, 3)
    assert np.array_equal(before, small.net.state_dict()["0.weight"])
    optimizer = optim.Adam(small.net.parameters(), lr=0.05)
    small.gradient(X, T)
    optimizer.step()
    after = inspect.filters(small.net)
    assert abs(after - before).max() == pytest.approx(0.05, rel=1e-3), "Adam's first step is the learning rate"


@pytest.mark.bits
def test_responses_to_edges_as_arrays() -> None:
    square = np.zeros((8, 8), np.float32)
    square[2:6, 2:6] = 1
    vertical, horizontal = (inspect.responses(square, inspect.edge_filter(name)) for name in ("vertical", "horizontal"))
    assert vertical[3].tolist() == [0, -1, 0, 0, 0, 1, 0]
    assert not vertical[1].any()
    np.testing.assert_array_equal(horizontal, vertical.T)


def test_responses_of_the_first_layer_are_its_maps(small: Dictionaries) -> None:
    kernels = inspect.filters(small.net)
    maps = inspect.feature_maps(small.net, X, "0") - small.net.state_dict()["0.bias"][:, None, None]
    np.testing.assert_allclose(inspect.responses(X, kernels, padding=1), maps, atol=1e-12)


def test_the_numerical_check_is_a_function_for_users(small: Dictionaries) -> None:
    def loss(x: gpucnn.Tensor) -> gpucnn.Tensor:
        return F.cross_entropy(small.net(x), gpucnn.tensor(T))

    report = inspect.check_gradients(loss, X, module=small.net, samples=5)
    assert report
    assert {check.name for check in report.checks} == {"input 0", *small.net.state_dict()}
    wrong = inspect.check_gradients(lambda x: x * x.detach(), X, samples=5)
    assert not wrong, "half of the gradient is missing"


def simple_convnet_of_the_script() -> Any:
    """The module of the script, which the text's own object is in."""
    spec = importlib.util.spec_from_file_location("system_3", ROOT / "scripts" / "system_3.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_object_that_predicts_and_has_a_loss_gradients_by_name_and_an_accuracy(tmp_path: Path) -> None:
    script = simple_convnet_of_the_script()
    network = script.SimpleConvNet(PARAMETERS, hidden_size=10)
    x, t = drawn(6, 1, 28, 28), gpucnn.tensor(np.array([0, 1, 2, 3, 4, 5]))
    one_hot = gpucnn.tensor(np.eye(10, dtype=np.float32)[t.numpy()])
    assert network.predict(x).shape == (6, 10)
    assert network.loss(x, t).item() == pytest.approx(network.loss(x, one_hot).item())
    gradients = network.gradient(x, t)
    assert list(gradients) == list(network.params)
    step = 1e-2
    weight = network.params["6.bias"]
    losses = []
    for sign in (1, -1):
        with gpucnn.no_grad():
            weight[3] += sign * step
            losses.append(network.loss(x, t).item())
            weight[3] -= sign * step
    assert gradients["6.bias"][3].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-3)
    wanted = np.mean(network.predict(x).numpy().argmax(1) == t.numpy())
    assert network.accuracy(x, t, batch_size=4) == network.accuracy(x, one_hot) == wanted
    network.save_params(str(tmp_path / "params"))
    other = script.SimpleConvNet(PARAMETERS, hidden_size=10)
    other.load_params(str(tmp_path / "params"))
    np.testing.assert_array_equal(other.predict(x).numpy(), network.predict(x).numpy())


def test_filters_are_grey_pictures_before_and_after_training(
    run_script: Callable[..., str], tiny_mnist: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("pictures") / "filters.png"
    run_script("system_3", "--data", tiny_mnist, "--epochs", 1, "--pictures", path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert picture.mode == "L"
    half = pixels.shape[1] // 2
    assert pixels.shape == (3 * 44 + 8, 2 * 10 * 44 + 8)
    assert not np.array_equal(pixels[:, 4:half], pixels[:, half:-4]), "the filters have learnt"
    assert {0, 255} <= set(np.unique(pixels))


def test_the_script(run_script: Callable[..., str], tiny_mnist: Path) -> None:
    said = run_script("system_3", "--data", tiny_mnist, "--epochs", 1)
    assert re.search(r"^seed 0: training accuracy \d\.\d{4}, test accuracy \d\.\d{4}$", said, re.MULTILINE)
    assert "0.9896" in said


@pytest.mark.slow
def test_the_published_run(accuracy_on_mnist: Callable[[str], float]) -> None:
    assert accuracy_on_mnist("system_3") >= 0.987
