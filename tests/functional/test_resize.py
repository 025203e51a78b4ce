"""Images of another size as PyTorch makes them; filters that are not shared; true convolution; output sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import assert_close, check_gradients

import gpucnn
import gpucnn.functional as F
from gpucnn import inspect, nn
from gpucnn.backend import Backend
from gpucnn.errors import DTypeError, GpucnnError, ParameterError, ShapeError

X = np.random.default_rng(0).standard_normal((2, 3, 5, 7))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    "how",
    [{"size": (8, 3)}, {"size": 6}, {"scale_factor": 2.0}, {"scale_factor": (1.5, 0.6)}, {"scale_factor": 0.4}],
    ids=str,
)
@pytest.mark.parametrize("corners", [False, True])
def test_interpolation_is_pytorchs(backend: Backend, mode: str, how: dict[str, Any], corners: bool) -> None:
    torch = pytest.importorskip("torch")
    if mode == "nearest" and corners:
        with pytest.raises(ParameterError, match="align_corners"):
            F.interpolate(gpucnn.tensor(X), **how, mode=mode, align_corners=True)
        return
    options = {"align_corners": corners} if mode == "bilinear" else {}
    wanted = torch.nn.functional.interpolate(torch.tensor(X), **how, mode=mode, **options)
    assert_close(F.interpolate(gpucnn.tensor(X), **how, mode=mode, **options), wanted.numpy())
    if not isinstance(how.get("scale_factor"), tuple):
        layer = nn.Upsample(**how, mode=mode, **options)
        assert layer(gpucnn.tensor(X)).shape == layer.output_shape(X.shape) == tuple(wanted.shape)
        assert_close(layer(gpucnn.tensor(X[0])), wanted.numpy()[0])


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_interpolation_has_its_gradient(backend: Backend, mode: str) -> None:
    check_gradients(lambda x: F.interpolate(x, (7, 3), mode=mode), backend, X[:1, :2])


def locally_by_loops(x: Any, weight: Any, bias: Any, stride: int, padding: int) -> Any:
    """The definition."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    OH, OW, filters, _, KH, KW = weight.shape
    y = np.zeros((len(x), filters, OH, OW))
    for i in range(OH):
        for j in range(OW):
            part = x[:, :, i * stride : i * stride + KH, j * stride : j * stride + KW]
            y[:, :, i, j] = np.einsum("ncab,fcab->nf", part, weight[i, j]) + bias[:, i, j]
    return y


def test_filters_that_are_not_shared(backend: Backend) -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((3, 4, 2, 3, 3, 2)), rng.standard_normal((2, 3, 4))
    got = F.locally_connected2d(gpucnn.tensor(X), gpucnn.tensor(weight), gpucnn.tensor(bias), 2, 1)
    assert_close(got, locally_by_loops(X, weight, bias, 2, 1))
    assert_close(
        F.locally_connected2d(gpucnn.tensor(X[0]), gpucnn.tensor(weight), None, 2, 1).numpy(),
        locally_by_loops(X[:1], weight, 0 * bias, 2, 1)[0],
    )
    check_gradients(lambda x, w, b: F.locally_connected2d(x, w, b, 2, 1), backend, X[:1], weight, bias)


def test_one_filter_at_all_positions_is_a_convolution() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1).to("float64")
    layer = nn.LocallyConnected2d(3, 4, 3, padding=1, image_size=(5, 7), dtype="float64")
    layer.load_state_dict({
        "weight": np.broadcast_to(conv.state_dict()["weight"], layer.weight.shape),
        "bias": np.broadcast_to(conv.state_dict()["bias"][:, None, None], (4, 5, 7)),
    })  # fmt: skip
    x = gpucnn.tensor(X)
    assert_close(layer(x), conv(x).numpy())
    assert layer.output_shape(X.shape) == conv.output_shape(X.shape)
    assert layer.multiply_adds(X.shape) == conv.multiply_adds(X.shape)
    assert inspect.check_gradients(layer, X[:1]).passed
    with pytest.raises(ShapeError, match="images of 3 channels"):
        layer.output_shape((2, 3, 5, 6))


def test_its_initial_weights_are_those_of_a_convolution() -> None:
    layer = nn.LocallyConnected2d(3, 8, 3, image_size=12)
    bound = 1 / np.sqrt(27)
    assert 0.98 * bound < abs(layer.state_dict()["weight"]).max() <= bound


def test_true_convolution_flips_and_commutes(backend: Backend) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((1, 1, 4, 5)), rng.standard_normal((1, 1, 3, 2))
    one = F.convolve2d(gpucnn.tensor(a), gpucnn.tensor(b), padding="full").numpy()
    other = F.convolve2d(gpucnn.tensor(b), gpucnn.tensor(a), padding="full").numpy()
    assert_close(one, other)
    wanted = np.zeros((6, 6))
    for i in range(3):
        for j in range(2):
            wanted[i : i + 4, j : j + 5] += b[0, 0, i, j] * a[0, 0]
    assert_close(one[0, 0], wanted)
    check_gradients(lambda x, w: F.convolve2d(x, w, padding=1), backend, a, b)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (((8, 8), 3, 1, 1), (8, 8)), (((8, 8), (5, 3), 1, (2, 1)), (8, 8)), (((8, 8), 3, 2, 1), (4, 4)),
        (((8, 8), (3, 5), (3, 4), (0, 1)), (2, 2)), ((28, 5), (24, 24)), ((10, 3, 2, "same"), (5, 5)),
        ((7, 3, 1, "full", 2), (11, 11)), ((7, 3, 1, (0, 1, 2, 3), 1), (6, 10)),
    ],
)  # fmt: skip
def test_output_sizes(arguments: Any, wanted: tuple[int, int]) -> None:
    assert F.output_size(*arguments) == wanted


def test_an_activation_of_ones_own_by_its_output(backend: Backend) -> None:
    x = np.random.default_rng(3).standard_normal((3, 4))

    def own(x: gpucnn.Tensor) -> gpucnn.Tensor:
        return F.by_output(x, lambda x: 1 / (1 + (-x).exp()), lambda y: y * (1 - y))

    assert_close(own(gpucnn.tensor(x)), F.sigmoid(gpucnn.tensor(x)).numpy())
    check_gradients(own, backend, x)
    wrong = gpucnn.tensor(x, requires_grad=True)
    F.by_output(wrong, lambda x: x * 2, lambda y: y * 0 + 7).sum().backward()
    assert wrong.grad is not None
    assert (wrong.grad.numpy() == 7).all(), "the derivative that was given, and no other"
    assert not F.by_output(gpucnn.tensor(x), lambda x: x, lambda y: y).requires_grad


def test_activations_and_initialisers_as_text() -> None:
    layer = nn.activation("affine(slope=2, intercept=-1.5)")
    assert layer(gpucnn.tensor([1.0])).tolist() == [0.5]
    assert repr(nn.activation("leaky relu(negative_slope=0.5)")) == "LeakyReLU(negative_slope=0.5)"
    assert repr(nn.activation("gelu(approximate='tanh')")) == repr(nn.GELU("tanh"))
    assert repr(nn.activation("relu()")) == "ReLU()"
    weights = nn.init.initialise(gpucnn.zeros(100, 100), "std_normal").numpy()
    assert abs(weights.std() - 1) < 0.05


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: nn.activation("affine(slope=2"),
        lambda: nn.activation("affine(2)"),
        lambda: nn.activation("affine(tilt=2)"),
        lambda: nn.activation("nothing(a=1)"),
        lambda: F.interpolate(gpucnn.ones(1, 1, 2, 2)),
        lambda: F.interpolate(gpucnn.ones(1, 1, 2, 2), 3, 2.0),
        lambda: F.interpolate(gpucnn.ones(1, 1, 2, 2), scale_factor=0.1),
        lambda: F.interpolate(gpucnn.ones(1, 1, 2, 2), scale_factor=(1.0, 2.0, 3.0)),
        lambda: F.interpolate(gpucnn.ones(1, 1, 2, 2), 3, mode="cubic"),
        lambda: F.locally_connected2d(gpucnn.ones(1, 1, 3, 3), gpucnn.ones(2, 2, 1, 2, 2, 2)),
        lambda: F.locally_connected2d(gpucnn.ones(1, 1, 3, 3), gpucnn.ones(3, 2, 1, 1, 2, 2)),
        lambda: F.locally_connected2d(gpucnn.ones(1, 1, 3, 3), gpucnn.ones(2, 2, 1, 1, 2, 2), gpucnn.ones(1)),
        lambda: F.convolve2d(gpucnn.ones(1, 1, 3, 3), gpucnn.ones(2, 2)),
        lambda: F.output_size((2, 2), 3),
        lambda: nn.LocallyConnected2d(1, 1, 4, image_size=3),
        lambda: F.by_output(gpucnn.ones(2), lambda x: x.sum(), lambda y: y),
        lambda: F.by_output(gpucnn.ones(2), 3, lambda y: y),  # type: ignore[arg-type]
    ],
)
def test_mistakes(attempt: Any) -> None:
    with pytest.raises(GpucnnError):
        attempt()


def test_integers_are_not_interpolated() -> None:
    with pytest.raises(DTypeError):
        F.interpolate(gpucnn.arange(4).reshape(1, 1, 2, 2), 3)
