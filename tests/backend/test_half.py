"""float16 arrays: stored in 16 bits, computed in float32, with the kernels that float32 has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import assert_close

import gpucnn
import gpucnn.functional as F
from gpucnn import nn
from gpucnn.backend import Backend, Generator, Window
from gpucnn.backend.dispatch import OPERATIONS
from gpucnn.backend.ops.fused import PAIRS

ROUNDED = 2.0**-11
"""Half of the last of float16's 10 bits: what rounding the result costs, relative to the largest."""
WINDOW = Window((3, 3), (1, 1), (1, 1, 1, 1))


class Reference(Backend):
    xp = np


def half(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


X, W, B, DY = half(0, 3, 4, 6, 6), half(1, 5, 4, 3, 3), half(2, 5), half(3, 3, 5, 6, 6)
POOLED, SMALL, WIDE = half(4, 3, 5, 3, 3), half(5, 7, 9), half(6, 5, 9)
CASES: dict[str, tuple[Any, ...]] = {
    "col2im": (half(7, 3 * 36, 36), X.shape, WINDOW),
    "conv2d": (X, W, B, WINDOW),
    "conv2d_input_gradient": (DY, W, X.shape, WINDOW),
    "conv2d_weight_gradient": (X, DY, W.shape, WINDOW),
    "conv2d_relu_max_pool2d": (X, W, B, WINDOW, 1),
    "max_pool2d": (X, PAIRS),
    "avg_pool2d": (X, PAIRS, 4.0),
    "avg_pool2d_gradient": (half(8, 3, 4, 3, 3), X.shape, PAIRS, 4.0),
    "conv2d_relu": (X, W, B, WINDOW),
    "batch_norm": (X, half(10, 4), half(11, 4), half(12, 3, 4, 6, 6), 1e-5, True),
    "batch_norm_inference": (X, half(13, 4), np.abs(half(14, 4)), half(10, 4), half(11, 4), None, 1e-5, False),
    "normalise": (X, (0, 2, 3), 1e-5),
    "matmul": (SMALL, WIDE.T),
    "linear": (SMALL, WIDE, B),
    "linear_parameter_gradients": (SMALL, half(9, 7, 5)),
    "erf": (SMALL,),
    "scale": (SMALL, np.array(1.5, np.float16), 3.0),
}
CHAINED = {"conv2d_relu_max_pool2d_gradients", "max_pool2d_gradient", "batch_norm_gradients", "normalise_gradient"}
"""Those that need what another kernel returned."""


def given(backend: Backend, arguments: tuple[Any, ...]) -> list[Any]:
    return [backend.asarray(one) if isinstance(one, np.ndarray) else one for one in arguments]


def hold(backend: Backend, got: Any, expected: Any) -> None:
    assert got.dtype == "float16"
    assert_close(backend.to_host(got).astype(np.float64), expected, ROUNDED)


def test_every_kernel_is_held() -> None:
    assert set(CASES) | CHAINED == {name for name, operation in OPERATIONS.items() if operation.widens}


@pytest.mark.parametrize("method", CASES)
def test_a_kernel_computes_in_float32_and_returns_float16(backend: Backend, method: str) -> None:
    expected = getattr(Reference(), method)(
        *(one.astype(np.float64) if isinstance(one, np.ndarray) else one for one in CASES[method])
    )
    backend.ran.clear()
    got = getattr(backend, method)(*given(backend, CASES[method]))
    if isinstance(got, tuple):
        for ours, theirs in zip(got[: 2 if "gradient" in method else 1], expected, strict=False):
            hold(backend, ours, theirs)
    else:
        hold(backend, got, expected)
    ran = {name for name in backend.ran if name != "conv2d_relu.reference"}  # it is made of two operations
    assert backend.name == "cpu" or not any(name.endswith(".reference") for name in ran)


def test_gradients_that_need_what_the_forward_kernel_kept(backend: Backend) -> None:
    x, w, b, pooled, dy = given(backend, (X, W, B, POOLED, half(8, 3, 4, 3, 3)))
    wide = [one.astype(np.float64) for one in (X, W, B, POOLED)]
    reference = Reference()
    _, place = backend.conv2d_relu_max_pool2d(x, w, b, WINDOW, 1)
    _, known = reference.conv2d_relu_max_pool2d(*wide[:3], WINDOW, 1)
    got = backend.conv2d_relu_max_pool2d_gradients(x, w, pooled, place, WINDOW, 1, (True, True))
    expected = reference.conv2d_relu_max_pool2d_gradients(wide[0], wide[1], wide[3], known, WINDOW, 1, (True, True))
    for ours, theirs in zip(got, expected, strict=True):
        hold(backend, ours, theirs)
    _, place = backend.max_pool2d(x, PAIRS)
    _, known = reference.max_pool2d(wide[0], PAIRS)
    expected_dx = reference.max_pool2d_gradient(half(8, 3, 4, 3, 3).astype(np.float64), known, X.shape, PAIRS)
    hold(backend, backend.max_pool2d_gradient(dy, place, X.shape, PAIRS), expected_dx)
    weight, residual = given(backend, (half(10, 4), half(12, *X.shape)))
    y, mean, var, factor = backend.batch_norm(x, weight, None, residual, 1e-5, True)
    assert (mean.dtype, var.dtype, factor.dtype) == ("float32",) * 3
    kept = [backend.to_host(one).astype(np.float64) for one in (x, y, weight, mean, factor)]
    expected = reference.batch_norm_gradients(half(9, *X.shape).astype(np.float64), *kept, True)
    (dy,) = given(backend, (half(9, *X.shape),))
    for ours, theirs in zip(backend.batch_norm_gradients(dy, x, y, weight, mean, factor, True), expected, strict=True):
        hold(backend, ours, theirs)
    y, factor = backend.normalise(x, (0, 2, 3), 1e-5)
    assert factor.dtype == "float32"
    given_y = backend.to_host(y).astype(np.float64)
    kept = backend.to_host(factor).astype(np.float64).reshape(1, 4, 1, 1)
    expected_dx = reference.normalise_gradient(half(9, *X.shape).astype(np.float64), given_y, kept, (0, 2, 3))
    hold(backend, backend.normalise_gradient(*given(backend, (half(9, *X.shape),)), y, factor, (0, 2, 3)), expected_dx)


def test_sums_do_not_stop_where_float16_would(backend: Backend) -> None:
    ones = gpucnn.tensor(np.ones((5000, 2), np.float16), requires_grad=True)  # in float16, 2048 + 1 is 2048
    weight = gpucnn.tensor(np.ones((1, 2), np.float16), requires_grad=True)
    assert ones.sum(0).tolist() == [5000, 5000]
    assert ones.mean().item() == 1
    (ones * weight).sum(0).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[5000, 5000]]
    assert (ones.T @ ones).tolist() == [[5000, 5000]] * 2


@pytest.mark.parametrize("mean", [lambda x: (x * x).mean(), lambda x: F.mse_loss(x, x.detach() * 0)])
def test_the_mean_of_more_than_float16_counts(backend: Backend, mean: Any) -> None:
    x = gpucnn.tensor(np.full((70_000, 2), 2, np.float16), requires_grad=True)
    y = mean(x)
    y.backward()
    assert y.item() == 4
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), 4 / 140_000, rtol=0.01)


def test_losses_of_float16_logits_are_float32(backend: Backend) -> None:
    logits = half(0, 4, 3)
    x = gpucnn.tensor(logits, requires_grad=True)
    loss = F.cross_entropy(x, gpucnn.tensor([0, 1, 2, 0]))
    loss.backward()
    assert (loss.dtype, x.grad is not None and x.grad.dtype) == ("float32", "float16")
    wide = gpucnn.tensor(logits.astype(np.float32), requires_grad=True)
    assert loss.item() == F.cross_entropy(wide, gpucnn.tensor([0, 1, 2, 0])).item()
    soft = gpucnn.tensor(np.full((4, 3), 1 / 3, np.float16))
    assert F.cross_entropy(x, soft).dtype == "float32"
    assert F.cross_entropy(x, gpucnn.tensor([0, 1, 2, 0]), label_smoothing=0.1).dtype == "float32"


def test_running_values_of_normalisation_stay_float32(backend: Backend) -> None:
    layers = [nn.BatchNorm2d(4), nn.BatchNorm2d(4).to("float16")]
    x = X.astype(np.float32) + 30
    for layer in layers:
        layer(gpucnn.tensor(x).to(layer.weight.dtype))
        layer.eval()
    assert {str(value.dtype) for value in layers[1].state_dict().values()} == {"float16", "float32", "int64"}
    for name in ("running_mean", "running_var"):
        assert layers[1].state_dict()[name].dtype == "float32"
        np.testing.assert_allclose(layers[1].state_dict()[name], layers[0].state_dict()[name], rtol=2e-3)
    answers = [layer(gpucnn.tensor(x).to(layer.weight.dtype)) for layer in layers]
    assert answers[1].dtype == "float16"
    np.testing.assert_allclose(answers[1].numpy(), answers[0].numpy(), rtol=0.01, atol=0.05)


def test_what_is_drawn_and_gathered_takes_the_kernels_of_float32(backend: Backend) -> None:
    backend.ran.clear()
    mask = backend.dropout_mask((100, 100), 0.5, np.dtype("float16"), Generator(3))
    assert mask.dtype == "float16"
    assert sorted(set(backend.to_host(mask).reshape(-1).tolist())) == [0, 2]
    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2)
    factor, shift = np.array([1 / 255, 0.5], np.float32), np.array([0.1, -1.0], np.float32)
    given_arrays = given(backend, (images, np.array([2, 0]), factor, shift))
    got = backend.gather(*given_arrays, np.dtype("float16"))
    expected = images[[2, 0]].astype(np.float64) * factor[:, None, None] + shift[:, None, None]
    hold(backend, got, expected)
    assert not any(name.endswith(".reference") for name in backend.ran) or backend.name == "cpu"


def test_bias_gradients_are_summed_in_float32(backend: Backend) -> None:
    weight, bias = (
        gpucnn.tensor(np.ones((1, 1), np.float16)),
        gpucnn.tensor(np.zeros(1, np.float16), requires_grad=True),
    )
    F.linear(gpucnn.tensor(np.ones((5000, 1), np.float16)), weight, bias).sum(0).sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [5000]
