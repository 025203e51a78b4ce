"""Finite differences in float64 for every operation of the network, and the values of the small ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from oracles import Host, assert_close, check_gradients

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor
from gpucnn.backend import Backend, Generator
from gpucnn.errors import ShapeError

RNG = np.random.default_rng(8)


def normal(*shape: int) -> Host:
    return RNG.standard_normal(shape)


def apart(*shape: int) -> Host:
    """Distinct numbers, none near 0 nor near another: no kink within a small step."""
    n = int(np.prod(shape))
    return (RNG.permutation(n) - n / 2 + 0.25).reshape(shape) / 3


TARGET = np.array([2, 0, 2])
CASES: dict[str, tuple[Callable[..., Tensor], tuple[Host, ...]]] = {
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 0, 2, 1), (1, 2), 2),
        (normal(2, 4, 4, 4), normal(4, 2, 2, 2), normal(4)),
    ),
    "conv2d of one image": (lambda x, w: F.conv2d(x, w, padding="full"), (normal(2, 3, 3), normal(2, 2, 2, 2))),
    "im2col": (lambda x: F.im2col(x, (2, 1), 2, 1), (normal(1, 2, 3, 3),)),
    "col2im": (lambda c: F.col2im(c, (1, 2, 3, 3), 2), (normal(4, 8),)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), (apart(2, 2, 5, 4),)),
    "max_pool2d hanging over": (lambda x: F.max_pool2d(x, 2, 3, ceil_mode=True), (apart(1, 2, 4, 4),)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), (normal(2, 2, 4, 5),)),
    "avg_pool2d apart": (lambda x: F.avg_pool2d(x, 2), (normal(2, 2, 4, 5),)),
    "linear": (F.linear, (normal(3, 4), normal(2, 4), normal(2))),
    "linear without bias": (F.linear, (normal(3, 4), normal(2, 4))),
    "linear of one row": (F.linear, (normal(4), normal(2, 4), normal(2))),
    "linear of more axes": (F.linear, (normal(2, 3, 4), normal(2, 4), normal(2))),
    "relu": (F.relu, (apart(3, 4),)),
    "sigmoid": (F.sigmoid, (normal(3, 4) * 3,)),
    "tanh": (F.tanh, (normal(3, 4),)),
    "softmax": (F.softmax, (normal(3, 4),)),
    "softmax of another axis": (lambda x: F.softmax(x, 0), (normal(3, 2, 2),)),
    "log_softmax": (F.log_softmax, (normal(3, 4),)),
    "log_softmax of another axis": (lambda x: F.log_softmax(x, axis=1), (normal(3, 2, 2),)),
    "dropout2d": (lambda x: F.dropout2d(x, 0.4, generator=Generator(1)), (normal(3, 4, 2, 2),)),
    "conv2d with a bias for each position": (
        lambda x, w, b: F.conv2d(x, w, b, padding=1), (normal(2, 2, 3, 3), normal(3, 2, 2, 2), normal(3, 4, 4))
    ),
    "convolve2d": (lambda x, w: F.convolve2d(x, w, padding=1), (normal(2, 2, 3, 3), normal(3, 2, 2, 2))),
    "locally_connected2d": (F.locally_connected2d, (normal(2, 2, 3, 4), normal(2, 3, 3, 2, 2, 2), normal(3, 2, 3))),
    "interpolate": (lambda x: F.interpolate(x, (7, 3), mode="bilinear"), (normal(1, 2, 5, 4),)),
    "by_output": (lambda x: F.by_output(x, F.tanh, lambda y: 1 - y * y), (normal(3, 4),)),
    "dropout": (lambda x: F.dropout(x, 0.4, generator=Generator(1)), (normal(4, 5),)),
    **{
        f"cross_entropy, {reduction}": (
            lambda x, reduction=reduction: F.cross_entropy(x, gpucnn.tensor(TARGET), reduction), (normal(3, 4),)
        )
        for reduction in ("mean", "sum", "none")
    },
    **{
        f"cross_entropy of weights, {reduction}": (
            lambda x, t, reduction=reduction: F.cross_entropy(x, t, reduction), (normal(3, 4), RNG.random((3, 4)))
        )
        for reduction in ("mean", "sum", "none")
    },
    **{
        f"mse_loss, {reduction}": (
            lambda x, t, reduction=reduction: F.mse_loss(x, t, reduction), (normal(3, 4), normal(3, 4))
        )
        for reduction in ("mean", "sum", "none")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(backend: Backend, name: str) -> None:
    function, inputs = CASES[name]
    check_gradients(function, backend, *inputs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (F.relu, "relu"),
        (F.sigmoid, "sigmoid"),
        (F.tanh, "tanh"),
        (lambda x: F.softmax(x, 1), lambda torch: lambda x: torch.softmax(x, 1)),
        (lambda x: F.log_softmax(x, 1), lambda torch: lambda x: torch.log_softmax(x, 1)),
    ],
    ids=["relu", "sigmoid", "tanh", "softmax", "log_softmax"],
)
def test_activations_are_pytorchs_also_far_from_zero(
    backend: Backend, ours: Callable[..., Tensor], theirs: Callable[..., Callable[..., object]] | str, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    x = np.concatenate([normal(3, 7), normal(3, 7) * 1000]).astype(dtype)
    dy = normal(*x.shape).astype(dtype)
    expected_x = torch.tensor(x, requires_grad=True)
    function = getattr(torch, theirs) if isinstance(theirs, str) else theirs(torch)
    expected = function(expected_x)
    expected.backward(torch.tensor(dy))
    tensor = gpucnn.tensor(x, requires_grad=True)
    y = ours(tensor)
    y.backward(gpucnn.tensor(dy))
    assert tensor.grad is not None
    assert_close(y, expected.detach().numpy())
    assert_close(tensor.grad, expected_x.grad.numpy())
    assert y.dtype == tensor.grad.dtype == dtype


def test_relu_passes_no_gradient_at_zero_and_keeps_nan(backend: Backend) -> None:
    x = gpucnn.tensor([0.0, -0.0, 1.0, -1.0], requires_grad=True)
    F.relu(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 1, 0]
    assert np.isnan(F.relu(gpucnn.tensor([float("nan")])).numpy()).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weights", [False, True])
def test_cross_entropy_is_pytorchs(backend: Backend, reduction: str, weights: bool) -> None:
    torch = pytest.importorskip("torch")
    logits = normal(6, 5) * 30
    target = RNG.random((6, 5)) if weights else RNG.integers(0, 5, 6)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(target), reduction=reduction)
    assert_close(F.cross_entropy(gpucnn.tensor(logits), gpucnn.tensor(target), reduction), expected.numpy())


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_integer_targets_of_any_width(backend: Backend, dtype: str) -> None:
    logits = gpucnn.tensor(normal(3, 4))
    expected = F.cross_entropy(logits, gpucnn.tensor(TARGET)).item()
    assert F.cross_entropy(logits, gpucnn.tensor(TARGET, dtype=dtype)).item() == expected


def test_the_mean_loss_of_an_empty_batch_is_nan_and_its_sum_zero(backend: Backend) -> None:
    logits, target = gpucnn.tensor(np.zeros((0, 4))), gpucnn.tensor(np.zeros(0, np.int64))
    logits.requires_grad_()
    for reduction, check in (("mean", np.isnan), ("sum", lambda value: value == 0)):
        loss = F.cross_entropy(logits, target, reduction)
        assert check(loss.item())
        loss.backward()
        assert check(F.mse_loss(gpucnn.tensor(np.zeros((0, 4))), gpucnn.tensor(np.zeros((0, 4))), reduction).item())


def test_linear_takes_operands_in_any_memory_order(backend: Backend) -> None:
    x, w, b = normal(6, 5), normal(4, 5), normal(4)
    for x_order in "CF":
        for w_order in "CF":
            y = F.linear(*(gpucnn.tensor(np.asarray(a, order=o)) for a, o in ((x, x_order), (w, w_order), (b, "C"))))
            assert_close(y, x @ w.T + b)


def test_dropout_drops_the_share_asked_for_and_keeps_the_mean(backend: Backend) -> None:
    x = gpucnn.tensor(np.ones(20000, np.float32), requires_grad=True)
    y = F.dropout(x, 0.3, generator=Generator(3))
    kept = y.numpy() != 0
    assert abs(kept.mean() - 0.7) < 0.02
    assert np.allclose(y.numpy()[kept], 1 / 0.7)
    y.sum().backward()
    assert x.grad is not None
    assert np.array_equal(x.grad.numpy(), y.numpy())
    assert not F.dropout(x, 1.0).numpy().any()
    assert F.dropout(x, 0.5, training=False) is x


def test_dropout2d_drops_whole_channels_of_an_image(backend: Backend) -> None:
    y = F.dropout2d(gpucnn.tensor(np.ones((50, 40, 2, 3))), 0.25, generator=Generator(3)).numpy()
    assert np.array_equal(y, np.broadcast_to(y[:, :, :1, :1], y.shape))
    assert set(np.unique(y)) == {0, 1 / 0.75}
    assert abs((y == 0).mean() - 0.25) < 0.05
    with pytest.raises(ShapeError, match="dropout2d"):
        F.dropout2d(gpucnn.tensor([1.0]))


def test_dropout_repeats_with_its_generators_state(backend: Backend) -> None:
    x = gpucnn.tensor(np.ones(1000, np.float32))
    gpucnn.manual_seed(5)
    first, second = F.dropout(x).numpy(), F.dropout(x).numpy()
    gpucnn.manual_seed(5)
    assert np.array_equal(F.dropout(x).numpy(), first)
    assert np.array_equal(F.dropout(x).numpy(), second)
    assert not np.array_equal(first, second)
