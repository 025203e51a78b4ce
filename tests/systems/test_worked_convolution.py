"""System 2: a convolution layer worked by hand, and what a production framework's layer has besides."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from runs import ROOT, environment

import gpucnn
from gpucnn import functional as F
from gpucnn import nn, optim
from gpucnn.backend import Backend

X = [[[0, 1, 1, 0, 2], [2, 2, 2, 2, 1], [1, 0, 0, 2, 0], [0, 1, 1, 0, 0], [1, 2, 0, 0, 2]],
     [[1, 0, 2, 2, 0], [0, 0, 0, 2, 0], [1, 2, 1, 2, 1], [1, 0, 0, 0, 0], [1, 2, 1, 1, 1]],
     [[2, 1, 2, 0, 0], [1, 0, 0, 1, 0], [0, 2, 1, 0, 1], [0, 1, 2, 2, 2], [2, 1, 0, 0, 1]]]  # fmt: skip
FILTERS = [[[[-1, 1, 0], [0, 1, 0], [0, 1, 1]], [[-1, -1, 0], [0, 0, 0], [0, -1, 0]],
            [[0, 0, -1], [0, 1, 0], [1, -1, -1]]],
           [[[1, 1, -1], [-1, -1, 1], [0, -1, 1]], [[0, 1, 0], [-1, 0, -1], [-1, 1, 0]],
            [[-1, 0, 0], [-1, 0, 1], [-1, 0, 0]]]]  # fmt: skip
Y = [[[6, 7, 5], [3, -1, -1], [2, -1, 4]], [[2, -5, -8], [1, -4, -4], [0, -5, -5]]]
DY = [[[0, 1, 1], [2, 2, 2], [1, 0, 0]], [[1, 0, 2], [0, 0, 0], [1, 2, 1]]]
UPDATED = [[[[-1.008, 0.99, -0.009], [-0.005, 0.994, -0.006], [-0.006, 0.995, 0.996]],
            [[-1.004, -1.001, -0.004], [-0.01, -0.009, -0.012], [-0.002, -1.002, -0.002]],
            [[-0.002, -0.002, -1.003], [-0.005, 0.992, -0.005], [0.993, -1.008, -1.007]]],
           [[[0.998, 0.998, -1.001], [-1.004, -1.007, 0.997], [-0.004, -1.004, 0.998]],
            [[0, 0.999, 0], [-1.009, -0.005, -1.004], [-1.004, 1, 0]],
            [[-1.004, -0.006, -0.005], [-1.002, -0.005, 0.998], [-1.002, -0.001, 0]]]]  # fmt: skip
UPDATED_BIAS = [0.991, -0.007]


def images(values: object, dtype: str = "float64") -> gpucnn.Tensor:
    return gpucnn.tensor(np.array(values, dtype))


def worked_layer(dtype: str) -> nn.Conv2d:
    conv = nn.Conv2d(3, 2, 3, stride=2, padding=1, dtype=dtype)
    conv.load_state_dict({"weight": np.array(FILTERS, dtype), "bias": np.array([1, 0], dtype)})
    return conv


def test_first_example(backend: Backend) -> None:
    y = F.corr2d(images([[1, 0], [1, 1]]), images([[1, -1], [1, -1]]))
    assert y.tolist() == [[1]]
    assert nn.ReLU()(y).tolist() == [[1]]


def test_two_kernels_make_two_maps(backend: Backend) -> None:
    assert nn.Conv2d(1, 2, 2)(images(np.ones((1, 4, 4)), "float32")).shape == (2, 3, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_worked_example(backend: Backend, dtype: str) -> None:
    conv = worked_layer(dtype)
    optimizer = optim.SGD(conv.parameters(), lr=0.001)
    y = conv(images(X, dtype))
    assert y.tolist() == Y
    y.backward(images(DY, dtype))
    optimizer.step()
    state = conv.state_dict()
    np.testing.assert_array_equal(state["weight"].astype("float64").round(6), UPDATED)
    np.testing.assert_array_equal(state["bias"].astype("float64").round(6), UPDATED_BIAS)


def test_single_images(backend: Backend) -> None:
    conv = worked_layer("float64")
    assert conv(images([X])).tolist() == [Y]
    assert conv(images(X)).shape == (2, 3, 3)
    assert F.corr2d(images(X[0]), images(FILTERS[0][0])).shape == (3, 3)


@pytest.mark.parametrize("name", ["identity", "relu", "sigmoid"])
def test_activation_by_name_or_object(backend: Backend, name: str) -> None:
    by_name = nn.ConvBlock(3, 2, 3, pool_size=None, activation=name)
    by_object = nn.ConvBlock(3, 2, 3, pool_size=None, activation=nn.activation(name))
    by_object.load_state_dict(by_name.state_dict())
    x = images(X, "float32")
    assert by_name(x).tolist() == by_object(x).tolist()
    assert type(by_name["activation"]) is type(by_object["activation"])


@pytest.mark.parametrize(
    ("name", "from_output"), [("identity", np.ones_like), ("relu", lambda y: y > 0), ("sigmoid", lambda y: y * (1 - y))]
)
def test_backward_of_an_activation_as_a_function_of_its_output(
    backend: Backend, name: str, from_output: object
) -> None:
    x = images([-2.0, -0.5, 0.5, 2.0]).requires_grad_()
    y = nn.activation(name)(x)
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), from_output(y.numpy()), rtol=1e-12)  # type: ignore[operator]


def test_max_pooling_sends_the_gradient_to_the_maximum(backend: Backend) -> None:
    x = images([[[1, 2], [4, 3]]]).requires_grad_()
    nn.MaxPool2d(2)(x).backward(images([[[7]]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[[0, 0], [7, 0]]]


def test_rectangles_and_separate_sides(backend: Backend) -> None:
    conv = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 3), groups=2)
    assert conv.weight is not None
    assert conv.weight.shape == (4, 1, 3, 2)
    assert conv(images(np.ones((2, 9, 6)), "float32")).shape == (4, 5, 3)


def test_transposed_convolution(backend: Backend) -> None:
    """Its product with any image is the convolution's, the other way round."""
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False, dtype="float64")
    back = nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, bias=False, dtype="float64")
    back.load_state_dict(conv.state_dict())
    rng = np.random.default_rng(0)
    x, y = images(rng.standard_normal((1, 2, 7, 5))), images(rng.standard_normal((1, 3, 4, 3)))
    np.testing.assert_allclose((conv(x) * y).sum().item(), (x * back(y)).sum().item(), rtol=1e-12)


def test_bias_on_off_per_channel() -> None:
    assert nn.Conv2d(1, 2, 3, bias=False).bias is None
    bias = nn.Conv2d(1, 2, 3).bias
    assert bias is not None
    assert bias.shape == (2,)


def test_a_bias_shared_by_all_positions_or_one_for_each(backend: Backend) -> None:
    shared, own = (nn.Conv2d(1, 2, 2, bias=kind, image_size=3) for kind in ("channel", "position"))
    assert [layer.bias.shape for layer in (shared, own) if layer.bias is not None] == [(2,), (2, 2, 2)]
    rng = np.random.default_rng(0)
    weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 1, 2, 2), (2, 2, 2)))
    own.load_state_dict({"weight": weight, "bias": bias})
    x = images(rng.standard_normal((4, 1, 3, 3)), "float32")
    y = own(x)
    np.testing.assert_allclose(y.numpy(), F.conv2d(x, gpucnn.tensor(weight)).numpy() + bias, rtol=1e-6)
    y.sum().backward()
    assert own.bias is not None
    assert own.bias.grad is not None
    assert own.bias.grad.tolist() == [[[4] * 2] * 2] * 2


def test_smart_initialisation() -> None:
    gpucnn.manual_seed(0)
    weight = nn.Conv2d(20, 60, 5).weight
    assert weight is not None
    values = nn.init.initialise(weight, "smart").numpy()
    assert abs(values.std() / np.sqrt(2 / (5**2 * 20)) - 1) < 0.02


def stepped(attributes: dict[str, float], **options: float) -> float:
    """Return what one step of SGD with learning rate 0.1 and a gradient of 2 makes of a parameter that is -3."""
    p = nn.Parameter(gpucnn.tensor([-3.0], dtype="float64")).configure(**attributes)  # type: ignore[arg-type]
    optimizer = optim.SGD([p], lr=0.1, **options)  # type: ignore[arg-type]
    (p * 2).sum().backward()
    optimizer.step()
    return float(p)


def test_attributes_of_one_parameter(backend: Backend) -> None:
    assert stepped({}) == pytest.approx(-3 - 0.1 * 2)
    assert stepped({"lr_multiplier": 0.5}) == pytest.approx(-3 - 0.5 * 0.1 * 2)
    assert stepped({"l1": 0.25}) == pytest.approx(-3 - 0.1 * (2 - 0.25))
    assert stepped({"l2": 0.25}) == pytest.approx(-3 - 0.1 * (2 - 0.25 * 3))
    both = {"lr_multiplier": 2.0, "l1": 0.5, "l2": 0.25}
    assert stepped(both, weight_decay=0.01) == pytest.approx(-3 - 0.2 * (2 - 0.5 - (0.25 + 0.01) * 3))


def test_a_frozen_parameter_stays(backend: Backend) -> None:
    conv = nn.Conv2d(1, 2, 2)
    assert conv.weight is not None
    conv.weight.configure(frozen=True)
    before, optimizer = conv.state_dict(), optim.SGD(conv.parameters(), lr=0.1)
    conv(images(np.ones((1, 1, 3, 3)), "float32")).sum().backward()
    optimizer.step()
    after = conv.state_dict()
    assert after["weight"].tolist() == before["weight"].tolist()
    assert (after["bias"] != before["bias"]).all()


def test_initial_mean_and_deviation() -> None:
    gpucnn.manual_seed(0)
    weight = nn.Conv2d(20, 30, 5).weight
    assert weight is not None
    values = nn.init.normal_(weight, mean=2, std=0.5).numpy()
    assert abs(values.mean() - 2) < 0.02
    assert abs(values.std() - 0.5) < 0.02


@pytest.mark.filterwarnings("ignore:device auto")
def test_the_implementation_is_automatic_or_chosen() -> None:
    assert gpucnn.get_backend("cpu").name == "cpu"
    assert gpucnn.get_backend("auto").name.split(":")[0] in ("cpu", "cuda")
    with gpucnn.use("cpu"):
        weight = nn.Conv2d(1, 1, 1).weight
    assert weight is not None
    assert weight.device == "cpu"


def test_layer_names() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, name="edges"), nn.ReLU())
    assert [name for name, _ in net.named_parameters()] == ["edges.weight", "edges.bias"]


def test_one_call_builds_convolution_activation_and_pooling(backend: Backend) -> None:
    block = nn.ConvBlock(3, filters=4, filter_size=3, pool_size=3, pool_stride=2, activation="sigmoid")
    x = images(np.random.default_rng(0).standard_normal((2, 3, 9, 9)), "float32")
    parts = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.MaxPool2d(3, 2))
    parts.load_state_dict(dict(zip(parts.state_dict(), block.state_dict().values(), strict=True)))
    assert block(x).shape == (2, 4, 3, 3)
    assert block(x).tolist() == parts(x).tolist()


def test_the_script_prints_the_worked_example() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "system_2.py"), "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert (result.returncode, result.stderr) == (0, "")
    assert "largest difference from the published figures: output 0, filters 0.000000, biases 0.000000" in result.stdout
