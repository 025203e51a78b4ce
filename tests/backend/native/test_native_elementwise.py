"""Compiled batch norm, activation, loss, updates, batches and layouts against their formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native_kernels import LAYOUTS, Device, Host, close, guarded, width

from gpucnn.backend.cpu import native_elementwise as calls
from gpucnn.backend.native import library

__all__ = ["width"]

SHAPES = ((1, 3, 1, 2), (2, 5, 3, 3), (16, 4, 2, 2), (33, 7, 9, 5), (64, 2, 40, 40))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", ["plain", "relu", "relu and residual", "without weight", "given moments"])
def test_batch_norm_and_its_gradients(shape: Any, layout: str, options: str, width: str) -> None:
    rng, device, eps = np.random.default_rng(shape[0]), Device(2), 1e-5
    C = shape[1]
    x = rng.standard_normal(shape, np.float32) * 2 + 3
    weight, bias = (None, None) if options == "without weight" else rng.standard_normal((2, C), np.float32)
    relu, residual = "relu" in options, rng.standard_normal(shape, np.float32) if "residual" in options else None
    given = (rng.standard_normal(C).astype(np.float32), rng.random(C).astype(np.float32) + 0.5)
    moments = given if "given" in options else None
    X = guarded(device, x, layout)
    R = None if residual is None else guarded(device, residual, layout)
    if moments is None:
        y, mean, var, factor = calls.batch_norm(device, X, weight, bias, R, eps, relu)
    else:
        (mean, var), (y, factor) = moments, calls.batch_norm_inference(device, X, *moments, weight, bias, R, eps, relu)

    wide, axes, each = x.astype(np.float64), (0, 2, 3), (slice(None), None, None)
    true_mean, true_var = (wide.mean(axes), wide.var(axes)) if moments is None else moments
    close(mean, true_mean, "mean")
    close(var, true_var, "var")
    true_factor = 1 / np.sqrt(np.asarray(true_var, np.float64) + eps)
    normal = (wide - np.asarray(true_mean, np.float64)[each]) * true_factor[each]
    w = np.ones(C) if weight is None else weight.astype(np.float64)
    expected = normal * w[each] + (0 if bias is None else bias[each]) + (0 if residual is None else residual)
    close(y, np.maximum(expected, 0) if relu else expected, "y")

    dy = rng.standard_normal(shape, np.float32)
    dx, dweight, dbias, dresidual = calls.batch_norm_gradients(
        device,
        guarded(device, dy, layout),
        X,
        y if relu else None,
        weight,
        mean,
        factor,
        residual is not None,
        moments is None,
    )
    g = dy.astype(np.float64) * (y > 0 if relu else 1)
    slope = g if moments else g - g.mean(axes)[each] - normal * (g * normal).mean(axes)[each]
    assert np.abs(dx - (w * true_factor)[each] * slope).max() < 3e-5 * np.abs((w * true_factor)[each] * g).max()
    assert np.abs(dweight - (g * normal).sum(axes)).max() < 2e-5 * np.abs(g * normal).sum(axes).max()
    assert np.abs(dbias - g.sum(axes)).max() < 1e-5 * np.abs(g).sum(axes).max()
    if residual is not None:
        np.testing.assert_array_equal(dresidual, g.astype(np.float32))
    device.check()


def test_a_large_mean_does_not_swallow_a_small_variance(width: str) -> None:
    x = (np.random.default_rng(0).integers(0, 2, (64, 1, 50, 50)) + 1e6).astype(np.float32)
    x[:1] += 512  # the first numbers are far from the rest
    _, mean, var, _ = calls.batch_norm(Device(), x, None, None, None, 1e-5, False)
    assert abs(mean[0] - x.mean(dtype=np.float64)) < 0.1
    assert abs(var[0] - x.var(dtype=np.float64)) < 1e-4 * x.var(dtype=np.float64)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 100, 40_000])
def test_relu_keeps_nan_and_zeros_what_is_negative(n: int, width: str) -> None:
    device, rng = Device(2), np.random.default_rng(n)
    x, dy = rng.standard_normal((2, n), np.float32)
    if n > 3:
        x[:4] = np.nan, np.inf, -np.inf, 1e-42
    x, dy = (guarded(device, a.reshape(1, 1, 1, n), "C-ordered").reshape(n) for a in (x, dy))
    y = calls.relu(device, x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(calls.relu_gradient(device, dy, y), np.where(y > 0, dy, 0))
    device.check()


@pytest.mark.parametrize("n", [0, 1, 15, 16, 100, 40_000])
def test_hardswish_keeps_nan_and_is_its_definition(n: int, width: str) -> None:
    device, rng = Device(2), np.random.default_rng(n)
    x = rng.standard_normal(n).astype(np.float32) * 4
    if n > 3:
        x[:4] = np.nan, np.inf, -4, 1e30
    x = guarded(device, x.reshape(1, 1, 1, n), "C-ordered").reshape(n)
    y = calls.hardswish(device, x, 0.7, -0.2)
    wide = x.astype(np.float64)
    wanted = 0.7 * wide * np.clip(wide + 3, 0, 6) / 6 - 0.2
    np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-6)
    device.check()


@pytest.mark.parametrize(("N", "C"), [(1, 1), (1, 10), (5, 3), (64, 10), (100, 1000)])
def test_cross_entropy_and_its_gradient(N: int, C: int, width: str) -> None:
    device, rng = Device(2), np.random.default_rng(N)
    for logits in (
        rng.standard_normal((N, C), np.float32) * 5,
        np.asfortranarray(rng.standard_normal((N, C), np.float32) * 60),
    ):
        target = rng.integers(0, C, N)
        losses, gradient = calls.cross_entropy(device, logits, target, True)
        wide = logits.astype(np.float64) - logits.max(1, keepdims=True)
        p = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
        close(losses, np.log(np.exp(wide).sum(1)) - wide[np.arange(N), target], "losses")
        close(gradient, p - np.eye(C)[target], "gradient")
        assert np.abs(calls.cross_entropy(device, logits, target, False)[0] - losses).max() == 0


def test_cross_entropy_of_what_is_not_finite(width: str) -> None:
    logits = np.zeros((5, 3), np.float32)
    logits[0, 1], logits[1, 2], logits[2, 0] = np.nan, np.inf, -np.inf
    logits[3] = -np.inf
    with np.errstate(all="ignore"):
        shifted = logits - logits.max(1, keepdims=True)
        expected = np.log(np.exp(shifted).sum(1)) - shifted[:, 0]
        slope = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True) - np.eye(3)[[0] * 5]
    losses, gradient = calls.cross_entropy(Device(), logits, np.zeros(5, int), True)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_of_no_class_is_refused(label: int, width: str) -> None:
    with pytest.raises(IndexError, match="0 to 2"):
        calls.cross_entropy(Device(), np.zeros((2, 3), np.float32), np.array([0, label]), True)


def test_the_exponential_is_within_two_units_in_the_last_place(width: str) -> None:
    """Seen through the gradient of two classes, whose greater logit is 0: e^x / (1 + e^x)."""
    x = -np.geomspace(1e-7, 100, 200_000).astype(np.float32)
    logits = np.zeros((len(x), 2), np.float32)
    logits[:, 1] = x
    _, gradient = calls.cross_entropy(Device(), logits, np.zeros(len(x), int), True)
    assert gradient is not None
    e = np.exp(x.astype(np.float64))
    expected = e / (1 + e)
    assert (np.abs(gradient[:, 1] - expected) <= 4 * np.spacing(expected.astype(np.float32))).all()


def sgd(
    p: Host, g: Host, v: Host | None, lr: float, momentum: float, nesterov: bool, decay: float
) -> tuple[Host, Host | None]:
    g = g + decay * p
    if v is not None:
        v = momentum * v + g
        g = g + momentum * v if nesterov else v
    return p - lr * g, v


@pytest.mark.parametrize("n", [0, 1, 17, 70_000])
@pytest.mark.parametrize(("momentum", "nesterov", "decay"), [(0, False, 0.0), (0.9, False, 0.01), (0.9, True, 0.0)])
def test_sgd(n: int, momentum: float, nesterov: bool, decay: float, width: str) -> None:
    device, rng = Device(2), np.random.default_rng(n)
    p, g, v = (
        guarded(device, a.reshape(1, 1, 1, n), "C-ordered").reshape(n) for a in rng.standard_normal((3, n), np.float32)
    )
    velocity = v if momentum else None
    expected = sgd(
        *(None if a is None else a.astype(np.float64) for a in (p, g, velocity)), 0.1, momentum, nesterov, decay
    )
    calls.sgd_update(device, p, g, velocity, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    close(p, expected[0], "p")
    if velocity is not None and expected[1] is not None:
        close(velocity, expected[1], "velocity")
    device.check()


@pytest.mark.parametrize("n", [0, 1, 17, 70_000])
@pytest.mark.parametrize(("decay", "decoupled"), [(0.0, False), (0.01, False), (0.01, True)])
def test_adam(n: int, decay: float, decoupled: bool, width: str) -> None:
    device, rng = Device(2), np.random.default_rng(n)
    p, g, m, v = (
        guarded(device, a.reshape(1, 1, 1, n), "C-ordered").reshape(n) for a in rng.standard_normal((4, n), np.float32)
    )
    v *= v
    P, G, M, V = (a.astype(np.float64) for a in (p, g, m, v))
    start = P * (1 - 0.01 * decay) if decoupled else P
    G = G if decoupled else G + decay * P
    M, V = 0.9 * M + 0.1 * G, 0.999 * V + 0.001 * G * G
    start = start - 0.01 / (1 - 0.9**3) * M / (np.sqrt(V) / np.sqrt(1 - 0.999**3) + 1e-8)
    calls.adam_update(
        device, p, g, m, v, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=decay, step=3, decoupled=decoupled
    )
    close(p, start, "p")
    close(m, M, "m")
    close(v, V, "v")
    device.check()


def test_moments_of_zero_gradients_end_at_zero(width: str) -> None:
    p, g, m, v = (
        np.ones(33, np.float32),
        np.zeros(33, np.float32),
        np.full(33, 1e-3, np.float32),
        np.full(33, 1e-6, np.float32),
    )
    for step in range(1, 1000):
        calls.adam_update(Device(), p, g, m, v, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, step=step)
    assert not m.any()
    velocity = np.full(33, 1e-3, np.float32)
    for _ in range(1000):
        calls.sgd_update(Device(), p, g, velocity, lr=1e-3, momentum=0.9, nesterov=False, weight_decay=0.0)
    assert not velocity.any()


@pytest.mark.parametrize("N", [0, 1, 16, 21, 130])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 7)])
def test_batches_are_gathered_and_normalised(N: int, shape: Any, width: str) -> None:
    device, rng = Device(2), np.random.default_rng(N)
    stored = rng.integers(0, 256, (40, *shape), np.uint8)
    scale, shift = rng.standard_normal((2, shape[0]))
    indices = rng.integers(-40, 40, N)
    images = device.empty(stored.shape, np.uint8)
    images[...] = stored
    y = calls.gather(device, images, indices, scale, shift, np.float32)
    close(y, images[indices] * scale[:, None, None] + shift[:, None, None], "y")
    device.check()
    with pytest.raises(IndexError, match="up to 39"):
        calls.gather(device, images, np.array([40]), scale, shift, np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 1), (1, 50), (5, 17), (64, 100), (101, 33)])
def test_transposition(rows: int, columns: int, width: str) -> None:
    device = Device(2)
    x, y = device.empty((rows, columns), np.float32), device.empty((columns, rows), np.float32)
    x[...] = np.arange(rows * columns).reshape(rows, columns)
    library().transpose(rows, columns, x, y, 2)
    np.testing.assert_array_equal(y, x.T)
    device.check()


def test_the_number_of_threads_does_not_change_a_bit(width: str) -> None:
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 33, 16, 17, 16), np.float32)
    weight, bias = rng.standard_normal((2, 16), np.float32)
    logits, target = rng.standard_normal((5000, 10), np.float32), rng.integers(0, 10, 5000)
    expected: list[Host] | None = None
    for threads in (1, 2, 3, 8):
        device = Device(threads)
        y, mean, var, factor = calls.batch_norm(device, x, weight, bias, None, 1e-5, True)
        p, m, v = rng.standard_normal((3, 100_000), np.float32) * 0 + 1
        calls.adam_update(device, p, p * 0.5, m, v, lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, step=1)
        found = [y, mean, var, factor, p, m, v]
        found += calls.batch_norm_gradients(device, dy, x, y, weight, mean, factor, True)
        found += [a for a in calls.cross_entropy(device, logits, target, True) if a is not None]
        expected = expected or found
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
