"""System 1: LeNet from scratch, by loops and by matrix products. Its worked examples and everything it offers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import models, nn, optim
from gpucnn.backend import Backend
from gpucnn.errors import ParameterError

BLOCKS = [[0.0, 1, 2, 0], [3, 4, 5, 0], [6, 7, 8, 0], [0, 0, 0, 0]]
RNG = np.random.default_rng(0)


def drawn(*shape: int) -> gpucnn.Tensor:
    return gpucnn.tensor(RNG.standard_normal(shape).astype(np.float32))


def counting(*shape: int) -> gpucnn.Tensor:
    return gpucnn.tensor(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def test_cross_correlation(backend: Backend) -> None:
    assert F.conv2d(counting(1, 1, 3, 3), counting(1, 1, 2, 2)).flatten().tolist() == [19, 25, 37, 43]
    assert F.conv2d_loops(counting(1, 1, 3, 3), counting(1, 1, 2, 2)).flatten().tolist() == [19, 25, 37, 43]


def test_max_pooling(backend: Backend) -> None:
    assert F.max_pool2d(gpucnn.tensor([BLOCKS]), 2).flatten().tolist() == [4, 5, 7, 8]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_output_size(stride: int, dilation: int, padding: int) -> None:
    n, f = 11, 3
    wanted = (n + 2 * padding - (f + (f - 1) * (dilation - 1))) // stride + 1
    assert nn.Conv2d(1, 1, f, stride, padding, dilation)(drawn(1, 1, n, n)).shape == (1, 1, wanted, wanted)


@pytest.mark.parametrize(
    ("padding", "size"),
    [("valid", (6, 7)), ("same", (7, 8)), ("full", (8, 9)), (1, (8, 9)), ((1, 0, 2, 3), (7, 12))],
)
def test_padding_modes(backend: Backend, padding: str, size: tuple[int, int]) -> None:
    assert nn.Conv2d(2, 3, 2, padding=padding)(drawn(1, 2, 7, 8)).shape[2:] == size


def test_same_puts_the_extra_row_and_column_at_the_bottom_right(backend: Backend) -> None:
    y = F.conv2d(gpucnn.tensor([[[[1.0, 1], [1, 1]]]]), gpucnn.tensor([[[[1.0, 1], [1, 1]]]]), padding="same")
    assert y.tolist() == [[[[4, 2], [2, 1]]]]


def test_input_channels_are_inferred_at_the_first_call(backend: Backend) -> None:
    conv = nn.Conv2d(None, 4, 2)
    conv(drawn(1, 3, 5, 5))
    assert conv.in_channels == 3
    assert conv.weight is not None
    assert conv.weight.shape == (4, 3, 2, 2)


def test_convolution_commutes_with_shifts(backend: Backend) -> None:
    x = np.zeros((1, 2, 12, 12), np.float32)
    x[:, :, 3:8, 3:8] = RNG.standard_normal((1, 2, 5, 5))
    conv = nn.Conv2d(2, 3, 3, padding=1)
    shifted = conv(gpucnn.tensor(np.roll(x, (1, 2), (2, 3)))).numpy()
    np.testing.assert_allclose(shifted, np.roll(conv(gpucnn.tensor(x)).numpy(), (1, 2), (2, 3)), atol=1e-6)
    assert abs(shifted - conv(gpucnn.tensor(x)).numpy()).max() > 0.1


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": (3, 2)}, {"dilation": 2}, {"groups": 2}, {"padding": "same", "groups": 4, "stride": 2}],
)
def test_loops_and_matrix_products_agree(backend: Backend, options: dict[str, int]) -> None:
    x, w, b = drawn(2, 4, 9, 8), drawn(4, 4 // options.get("groups", 1), 3, 2), drawn(4)
    fast, slow = F.conv2d(x, w, b, **options).numpy(), F.conv2d_loops(x, w, b, **options).numpy()
    np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-5)


def weights(layer: nn.Module) -> int:
    return sum(parameter.size for parameter in layer.parameters())


def test_parameter_counts() -> None:
    plain = weights(nn.Conv2d(2, 4, 2, bias=False))
    separable = weights(nn.DepthwiseSeparableConv2d(2, 4, 2, bias=False))
    assert (plain, separable) == (32, 16)
    assert separable / plain == 1 / 4 + 1 / 2**2
    plain, grouped = weights(nn.Conv2d(4, 2, 2, bias=False)), weights(nn.Conv2d(4, 2, 2, groups=2, bias=False))
    assert (plain, grouped) == (32, 16)
    assert grouped / plain == 1 / 2


def test_im2col_and_col2im_are_public(backend: Backend) -> None:
    x, w = counting(1, 1, 3, 3), counting(1, 1, 2, 2)
    columns = F.im2col(x, 2)
    assert (columns @ w.reshape(4, 1)).flatten().tolist() == [19, 25, 37, 43]
    assert F.col2im(columns, (1, 1, 3, 3), 2).flatten().tolist() == [0, 2, 2, 6, 16, 10, 6, 14, 8]


def test_backward_of_convolution(backend: Backend) -> None:
    x, w, b = counting(1, 1, 3, 3).requires_grad_(), counting(1, 1, 2, 2).requires_grad_(), drawn(1).requires_grad_()
    dy = gpucnn.tensor([[[[1.0, 2], [3, 4]]]])
    F.conv2d(x, w, b).backward(dy)
    assert x.grad is not None
    assert w.grad is not None
    assert b.grad is not None
    flipped = gpucnn.tensor([[[[3.0, 2], [1, 0]]]])
    assert x.grad.tolist() == F.conv2d(dy, flipped, padding="full").tolist()
    assert w.grad.tolist() == F.conv2d(x.detach(), dy).tolist() == [[[[27, 37], [57, 67]]]]
    assert b.grad.tolist() == [10]


def pooled_gradient(pool: nn.Module, x: list[list[float]]) -> list[list[float]]:
    image = gpucnn.tensor([[x]], requires_grad=True)
    pool(image).backward(gpucnn.tensor([[[[2.0, 4], [6, 8]]]]))
    assert image.grad is not None
    return image.grad.tolist()[0][0]


def test_backward_of_average_pooling(backend: Backend) -> None:
    wanted = [[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1], [1.5, 1.5, 2, 2], [1.5, 1.5, 2, 2]]
    assert pooled_gradient(nn.AvgPool2d(2), BLOCKS) == wanted


def test_backward_of_max_pooling(backend: Backend) -> None:
    corners = [[9.0, 0, 0, 9], [0, 0, 0, 0], [0, 0, 0, 0], [9, 0, 0, 9]]
    wanted = [[2, 0, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0], [6, 0, 0, 8]]
    assert pooled_gradient(nn.MaxPool2d(2), corners) == wanted


def test_ties_go_to_the_first_maximum(backend: Backend) -> None:
    wanted = [[2, 0, 4, 0], [0, 0, 0, 0], [6, 0, 8, 0], [0, 0, 0, 0]]
    assert pooled_gradient(nn.MaxPool2d(2), [[1.0] * 4] * 4) == wanted


def test_other_pooling(backend: Backend) -> None:
    x = gpucnn.tensor([[[3.0, -4], [0, 0]]])
    assert nn.LPPool2d(2, 2)(x).tolist() == [[[5]]]
    assert nn.LPPool2d(1, 2)(x).tolist() == [[[7]]]
    np.testing.assert_allclose(nn.LPPool2d(3, 2)(x).item(), (27 + 64) ** (1 / 3), rtol=1e-6)
    assert nn.GlobalAvgPool2d()(x).tolist() == [[[-0.25]]]
    near, far = ([[0.0] * 3, [0, 1, 0], [0] * 3], [[1.0, 0, 0], [0] * 3, [0] * 3])
    weighted = [nn.CentrePool2d(3)(gpucnn.tensor([image])).item() for image in (near, far)]
    np.testing.assert_allclose(weighted[0] / weighted[1], 1 + np.sqrt(2), rtol=1e-6)


def test_flatten_keeps_the_first_axis_the_last_or_none(backend: Backend) -> None:
    x = drawn(2, 3, 4, 5)
    assert [nn.Flatten(*axes)(x).shape for axes in ((1, -1), (0, -2), (0, -1))] == [(2, 60), (24, 5), (120,)]


@pytest.mark.parametrize(
    ("name", "options", "at"),
    [
        ("sigmoid", {}, lambda x: 1 / (1 + np.exp(-x))),
        ("ReLU", {}, lambda x: np.maximum(x, 0)),
        ("tanh", {}, np.tanh),
        ("affine", {"slope": 2, "intercept": -1}, lambda x: 2 * x - 1),
        ("leaky ReLU", {"negative_slope": 0.3}, lambda x: np.where(x > 0, x, 0.3 * x)),
        ("ELU", {"alpha": 0.5}, lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1))),
        ("exponential", {}, np.exp),
        ("SELU", {}, lambda x: 1.0507009873 * np.where(x > 0, x, 1.6732632423 * (np.exp(x) - 1))),
        ("hard sigmoid", {}, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("softplus", {}, lambda x: np.log(1 + np.exp(x))),
        ("softmax", {}, lambda x: np.exp(x) / np.exp(x).sum()),
    ],
)
def test_activations_by_name(backend: Backend, name: str, options: dict[str, float], at: object) -> None:
    x = np.array([-4.0, -1.5, 0.0, 0.5, 3.5])
    y = nn.activation(name, **options)(gpucnn.tensor(x))
    np.testing.assert_allclose(y.numpy(), at(x), rtol=1e-9)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("glorot_uniform", np.sqrt(2 / 500)),
        ("glorot_normal", np.sqrt(2 / 500)),
        ("he_uniform", np.sqrt(2 / 200)),
        ("he_normal", np.sqrt(2 / 200)),
        ("truncated_normal", 0.8796),
        ("normal", 1.0),
    ],
)
def test_initialisers_by_name(name: str, std: float) -> None:
    gpucnn.manual_seed(0)
    weight = nn.init.initialise(gpucnn.tensor(np.zeros((300, 200), np.float32)), name).numpy()
    assert abs(weight.std() / std - 1) < 0.02
    assert abs(weight.mean()) < 0.02 * std


def test_constant_initialisers() -> None:
    assert nn.init.initialise(gpucnn.tensor([0.0]), "constant", value=3).tolist() == [3]
    assert nn.init.initialise(gpucnn.tensor([1.0]), "zeros").tolist() == [0]


OPTIMISERS = {
    "SGD": (lambda p: optim.SGD(p, lr=0.1), set()),
    "momentum": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), {"momentum_buffer"}),
    "Nesterov": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), {"momentum_buffer"}),
    "AdaGrad": (lambda p: optim.Adagrad(p, lr=0.1), {"sum"}),
    "RMSProp": (lambda p: optim.RMSprop(p, lr=0.1), {"square_avg"}),
    "AdaDelta": (lambda p: optim.Adadelta(p, lr=0.1), {"square_avg", "acc_delta"}),
    "Adam": (lambda p: optim.Adam(p, lr=0.1), {"exp_avg", "exp_avg_sq"}),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_descend_and_can_be_read(name: str) -> None:
    make, slots = OPTIMISERS[name]
    p = nn.Parameter(gpucnn.tensor([1.0]))
    optimizer = make([("weight", p)])
    for _ in range(3):
        optimizer.zero_grad()
        (p * p).sum().backward()
        optimizer.step()
    assert p.item() < 1
    assert optimizer.param_groups[0]["lr"] == 0.1
    state = optimizer.state_dict()
    assert all(state["state"][f"{slot}.weight"].any() for slot in slots)
    twin = make([("weight", nn.Parameter(gpucnn.tensor([1.0])))])
    twin.load_state_dict(state)
    assert twin.state_dict()["state"].keys() == state["state"].keys()


def test_gradient_clipping_by_norm(backend: Backend) -> None:
    p = nn.Parameter(gpucnn.tensor([0.0, 0.0]))
    (p * gpucnn.tensor([3.0, 4.0])).sum().backward()
    assert optim.clip_grad_norm_([p], 1.0).item() == 5
    assert p.grad is not None
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.8], rtol=1e-6)


def test_its_lenet() -> None:
    net = models.build("lenet:activation=sigmoid,padding=0,hidden=128,init=xavier_normal")
    x, shapes = drawn(1, 1, 28, 28), []
    for layer in net.children():
        x = layer(x)
        if not isinstance(layer, nn.Sigmoid):
            shapes.append(x.shape[1:])
    assert shapes == [(6, 24, 24), (6, 12, 12), (16, 8, 8), (16, 4, 4), (256,), (128,), (84,), (10,)]
    assert all(not values.any() for name, values in net.state_dict().items() if name.endswith("bias"))


def test_hyper_parameters_can_be_read_as_a_dict() -> None:
    described = models.describe(models.lenet(padding=0))
    first = described["children"][0][1]
    assert first["layer"] == "Conv2d"
    wanted = {"in_channels": 1, "out_channels": 6, "kernel_size": [5, 5], "stride": [1, 1], "padding": 0, "bias": True}
    assert wanted.items() <= first["arguments"].items()
    with pytest.raises(ParameterError):
        models.describe(nn.Lambda(abs))


def test_strides_of_the_figure(backend: Backend) -> None:
    y = F.conv2d(counting(1, 1, 3, 3), counting(1, 1, 2, 2), stride=(3, 2), padding=1)
    assert y.tolist() == [[[[0, 8], [6, 8]]]]


def test_fit_and_evaluate_with_loss_and_time_of_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = gpucnn.data.draw_digits(200, seed=0)
    model = "lenet:activation=sigmoid,padding=0,hidden=128,init=xavier_normal"
    classifier = gpucnn.Classifier(model, lr=0.002, schedule="constant", device="cpu", verbose=True)
    classifier.fit(images, labels, epochs=2, batch_size=64)
    assert [set(epoch) >= {"loss", "seconds"} for epoch in classifier.history] == [True, True]
    assert all(epoch["loss"] > 0 and epoch["seconds"] > 0 for epoch in classifier.history)
    said = capsys.readouterr()
    assert len(re.findall(r"loss \d", said.out + said.err)) == 2
    assert classifier.score(images, labels) == np.mean(classifier.predict(images) == labels)
    assert {"model": model, "lr": 0.002, "optimizer": "adam"}.items() <= classifier.get_params().items()


def test_the_script_prints_loss_and_time_of_each_epoch(run_script: Callable[..., str], tiny_mnist: Path) -> None:
    said = run_script("system_1", "--data", tiny_mnist, "--epochs", 2, "--seed", 1, "--seed", 2)
    assert len(re.findall(r"^epoch [12]: loss \d\.\d{3}, \d+\.\d s$", said, re.MULTILINE)) == 4
    assert "mean of 2: test accuracy 0." in said
    assert "0.9567" in said


def test_the_scripts_main_experiment_loops_against_products(run_script: Callable[..., str], tiny_mnist: Path) -> None:
    losses = {}
    for how in ("loops", "im2col"):
        said = run_script("system_1", "--data", tiny_mnist, "--epochs", 1, "--images", 16, "--implementation", how)
        losses[how] = re.findall(r"^epoch 1: loss (\d\.\d{3})", said, re.MULTILINE)
    assert len(losses["loops"]) == 1
    assert losses["loops"] == losses["im2col"]


def test_every_argument_of_lenet_can_be_set_and_read() -> None:
    options = {
        "filters1": 3, "filters2": 4, "kernel1": 3, "kernel2": 2, "stride1": 2, "stride2": 1, "padding": 1, "padding2": 1,
        "pool_size1": 2, "pool_size2": 3, "hidden": 7, "hidden2": 6, "implementation": "loops",
    }  # fmt: skip
    net = models.lenet(5, 2, "tanh", "avg", image_size=(24, 30), **options)
    text = ",".join(f"{key}={value}" for key, value in options.items())
    assert repr(
        models.build(f"lenet:activation=tanh,pooling=avg,{text}", classes=5, in_channels=2, image_size=(24, 30))
    ) == repr(net)
    first, second = net[0], net[3]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert first.arguments() | {"bias": True} == first.arguments()
    assert (first.out_channels, first.kernel_size, first.stride, first.padding, first.implementation) == (
        3, (3, 3), (2, 2), 1, "loops")  # fmt: skip
    assert (second.out_channels, second.kernel_size, second.stride, second.padding) == (4, (2, 2), (1, 1), 1)
    assert [layer.kernel_size for layer in (net[2], net[5])] == [(2, 2), (3, 3)]  # type: ignore[attr-defined]
    assert [layer.out_features for layer in net if isinstance(layer, nn.Linear)] == [7, 6, 5]
    assert net(gpucnn.zeros(1, 2, 24, 30)).shape == (1, 5)


@pytest.mark.slow
def test_the_published_run(accuracy_on_mnist: Callable[[str], float]) -> None:
    assert accuracy_on_mnist("system_1") >= 0.965
