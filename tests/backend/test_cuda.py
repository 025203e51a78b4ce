"""The CUDA backend's own decisions: which kernel, which tile, how many launches, and what happens without memory.

On the stand-in for CuPy, which runs the kernels on the CPU, and on a GPU where there is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CONVOLUTIONS
from cuda_operations import DEVICES, RNG, Reference, arrays, hold, train_once
from oracles import assert_close

import gpucnn
import gpucnn.functional as F
from gpucnn import models, nn, optim
from gpucnn.backend import Backend, Window, ops
from gpucnn.backend.cuda import columns, conv, linear
from gpucnn.training import train_step

on_devices = pytest.mark.parametrize("backend", DEVICES, indirect=True)
KERNELS = (
    "linear", "linear_parameter_gradients", "avg_pool2d", "avg_pool2d_gradient", "conv2d", "conv2d_input_gradient",
    "conv2d_relu_max_pool2d", "conv2d_relu_max_pool2d_gradients", "conv2d_weight_gradient", "cross_entropy",
    "dropout_mask", "gather", "max_pool2d", "max_pool2d_gradient", "batch_norm", "batch_norm_gradients",
)  # fmt: skip


def ran(backend: Backend, how: str) -> set[str]:
    return {name.rpartition(".")[0] for name, count in backend.ran.items() if count and name.endswith(how)}


@on_devices
@pytest.mark.parametrize(
    "model", ["lenet", "lenet:activation=sigmoid,pooling=avg", "lenet:activation=tanh,pooling=max", "small"]
)
def test_the_networks_that_matter_take_the_fast_kernels(backend: Backend, model: str) -> None:
    if model == "small":
        net: nn.Module = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Dropout(0.3), nn.Flatten(),
            nn.Linear(4 * 12 * 12, 10),
        )  # fmt: skip
    else:
        net = models.build(model)
    backend.ran.clear()
    train_once(net, (4, 1, 28, 28))
    assert ran(backend, ".reference") & set(KERNELS) == set()
    assert {"linear", "linear_parameter_gradients", "matmul", "cross_entropy", "copy_all", "adam_update"} <= ran(
        backend, ".fast"
    )
    assert ran(backend, ".fast") & {"conv2d", "conv2d_relu_max_pool2d"}


@on_devices
def test_the_64_channel_convolution_takes_the_fast_kernels(backend: Backend) -> None:
    x = gpucnn.tensor(RNG(0).standard_normal((1, 64, 8, 8)).astype(np.float32), requires_grad=True)
    layer = nn.Conv2d(64, 64, 3, padding=1)
    backend.ran.clear()
    layer(x).sum().backward()
    assert ran(backend, ".fast") >= {"conv2d", "conv2d_input_gradient", "conv2d_weight_gradient"}
    assert ran(backend, ".reference") == set()


def test_a_training_step_of_lenet_is_few_launches(standin: Backend) -> None:
    with gpucnn.use(standin):
        net = models.build("lenet")
        optimizer = optim.Adam(net.parameters())
        train_once(net, (4, 1, 28, 28), optimizer)
        x, y = gpucnn.tensor(np.zeros((4, 1, 28, 28), np.float32)), gpucnn.tensor([1, 2, 3, 4])
        with standin.xp.standin.launches.counted() as launches, standin.xp.standin.transfers.counted() as transfers:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert sum(launches.values()) <= 30, launches
    assert transfers.total == 0


@pytest.mark.parametrize(("model", "shape", "most"), [("lenet", (4, 1, 28, 28), 30), ("resnet", (2, 3, 32, 32), 400)])
def test_a_step_is_few_launches_and_moves_nothing(
    standin: Backend, model: str, shape: tuple[int, ...], most: int
) -> None:
    """The whole step that users write: train_step with Adam."""
    with gpucnn.use(standin):
        net = models.build(model)
        optimizer, loss_fn = optim.Adam(net.parameters()), nn.CrossEntropyLoss()
        x = gpucnn.tensor(RNG(0).standard_normal(shape).astype(np.float32))
        y = gpucnn.tensor(np.arange(shape[0]))
        train_step(net, loss_fn, optimizer, x, y)
        with standin.xp.standin.launches.counted() as launches, standin.xp.standin.transfers.counted() as transfers:
            train_step(net, loss_fn, optimizer, x, y)
    assert sum(launches.values()) <= most, (sum(launches.values()), launches)
    assert transfers.total == 0


# --- every tile and path, against the reference in float64 ---------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("by_columns", [False, True], ids=["implicit", "columns"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_by_either_way(
    backend: Backend, case: str, by_columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, filters, window, groups = CONVOLUTIONS[case]
    if by_columns and groups > 1:
        pytest.skip("columns in memory serve one group")
    monkeypatch.setattr(columns, "pay", lambda *arguments, **named: by_columns)
    x, w, b = (
        RNG(0).standard_normal(shape),
        RNG(1).standard_normal((filters, shape[1] // groups, *window.kernel)),
        RNG(2),
    )
    dy = RNG(3).standard_normal((shape[0], filters, *window.output_size(*shape[2:])))
    hold(backend, "conv2d", x, w, b.standard_normal(filters), window, groups)
    hold(backend, "conv2d", x, w, None, window, groups)
    hold(backend, "conv2d_input_gradient", dy, w, shape, window, groups)
    hold(backend, "conv2d_weight_gradient", x, dy, w.shape, window, groups)


@on_devices
@pytest.mark.parametrize("case", [case for case in CONVOLUTIONS if case not in ("one pixel", "stride 3, dilation 2")])
def test_convolution_relu_and_pooling_in_one(backend: Backend, case: str) -> None:
    shape, filters, window, groups = CONVOLUTIONS[case]
    x, w = RNG(0).standard_normal(shape), RNG(1).standard_normal((filters, shape[1] // groups, *window.kernel))
    b = RNG(2).standard_normal(filters)
    reference = Reference()
    expected, expected_place = reference.conv2d_relu_max_pool2d(x, w, b, window, groups)
    y, place = backend.conv2d_relu_max_pool2d(*arrays(backend, x, w, b), window, groups)
    assert_close(backend.to_host(y), expected, 2e-5)
    assert place is not None
    assert np.array_equal(backend.to_host(place), expected_place)
    dy = RNG(3).standard_normal(expected.shape)
    wanted = reference.conv2d_relu_max_pool2d_gradients(x, w, dy, expected_place, window, groups, (True, True))
    device = arrays(backend, x, w, dy)
    got = backend.conv2d_relu_max_pool2d_gradients(*device, place, window, groups, (True, True))
    for ours, theirs in zip(got, wanted, strict=True):
        assert_close(backend.to_host(ours), theirs, 2e-5)
    assert backend.conv2d_relu_max_pool2d_gradients(*device, place, window, groups, (False, False)) == (
        None,
        None,
        None,
    )


@on_devices
def test_a_bias_beyond_relu_and_nan_reach_the_pooled_image(backend: Backend) -> None:
    x, w = np.zeros((1, 1, 4, 4)), np.ones((3, 1, 1, 1))
    x[0, 0, 0, 1], x[0, 0, 2, 2] = np.nan, 5.0
    bias = np.array([-1.0, 0.5, 0.0])
    y, place = backend.conv2d_relu_max_pool2d(*arrays(backend, x, w, bias), Window((1, 1)), 1)
    expected = [[[np.nan, 0], [0, 4]], [[np.nan, 0.5], [0.5, 5.5]], [[np.nan, 0], [0, 5]]]
    np.testing.assert_array_equal(backend.to_host(y)[0], expected)
    assert backend.to_host(place)[0].tolist() == [[[4, 4], [4, 0]], [[4, 0], [0, 0]], [[4, 4], [4, 0]]]


@on_devices
def test_nan_wins_in_max_pooling_and_gets_the_gradient(backend: Backend) -> None:
    x = RNG(0).standard_normal((2, 2, 6, 6))
    x[RNG(1).random(x.shape) < 0.3] = np.nan
    window, shape = Window((3, 2), (2, 1), (1, 0, 0, 1)), x.shape
    expected, expected_place = Reference().max_pool2d(x, window)
    y, place = backend.max_pool2d(*arrays(backend, x), window)
    np.testing.assert_array_equal(backend.to_host(y), expected.astype(np.float32))
    np.testing.assert_array_equal(backend.to_host(place), expected_place)
    dy = RNG(2).standard_normal(expected.shape)
    dx = backend.max_pool2d_gradient(*arrays(backend, dy), place, shape, window)
    assert_close(backend.to_host(dx), Reference().max_pool2d_gradient(dy, expected_place, shape, window))


@on_devices
@pytest.mark.parametrize("spread", [1.0, 1000.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 10), (6, 33), (3, 300)])
def test_cross_entropy_over_few_and_many_classes(backend: Backend, shape: tuple[int, int], spread: float) -> None:
    logits = (RNG(0).standard_normal(shape) * spread).astype(np.float32).astype(np.float64)
    target = RNG(1).integers(0, shape[1], shape[0])
    expected = Reference().cross_entropy(logits, target, True)
    (device,) = arrays(backend, logits)
    losses, gradient = backend.cross_entropy(device, backend.asarray(target), True)
    assert_close(backend.to_host(losses), expected[0])
    assert gradient is not None
    assert np.abs(backend.to_host(gradient) - expected[1]).max() < 1e-5
    again, nothing = backend.cross_entropy(device, backend.asarray(target.astype(np.int32)), False)
    assert np.array_equal(backend.to_host(again), backend.to_host(losses))
    assert nothing is None


@on_devices
@pytest.mark.parametrize("side", linear.TILES)
@pytest.mark.parametrize("transposed", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (16, 16, 16), (17, 33, 20), (70, 65, 130)])
def test_products(
    backend: Backend, sizes: tuple[int, int, int], transposed: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "side_of", lambda M, N: side)
    M, N, K = sizes
    a, b, bias = RNG(0).standard_normal((M, K)), RNG(1).standard_normal((K, N)), RNG(2).standard_normal(N)

    def lay(matrix: Any, way: str) -> Any:
        return backend.asarray((matrix if way == "n" else matrix.T).astype(np.float32, order="C")).reshape(
            matrix.shape if way == "n" else matrix.shape[::-1]
        )

    first, second = lay(a, transposed[0]), lay(b, transposed[1])
    first, second = first.T if transposed[0] == "t" else first, second.T if transposed[1] == "t" else second
    backend.ran.clear()
    assert_close(backend.to_host(backend.matmul(first, second)), a @ b, 2e-5)
    assert backend.ran["matmul.fast"] == 1
    strided = backend.to_host(backend.matmul(first[:, ::2], second[::2]))
    assert_close(strided, a[:, ::2] @ b[::2], 2e-5)
    if transposed == "nt":
        y = backend.linear(first, second.T, backend.asarray(bias.astype(np.float32)))
        assert_close(backend.to_host(y), a @ b + bias, 2e-5)
    if transposed == "tn":
        dw, db = backend.linear_parameter_gradients(second, first.T)
        assert_close(backend.to_host(dw), a @ b, 2e-5)
        assert_close(backend.to_host(db), a.sum(1), 2e-5)


@on_devices
@pytest.mark.parametrize("shape", [(1, 3, 1, 2), (5, 3, 4, 7), (40, 2, 16, 16), (300, 5)])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("fused", [False, True])
def test_batch_norm(backend: Backend, shape: tuple[int, ...], mean: float, fused: bool) -> None:
    x = (RNG(0).standard_normal(shape) + mean).astype(np.float32).astype(np.float64)
    dy, residual = RNG(1).standard_normal(shape), RNG(2).standard_normal(shape)
    weight, bias = RNG(3).standard_normal(shape[1]) + 2, RNG(4).standard_normal(shape[1])
    expected = Reference().batch_norm(x, weight, bias, residual if fused else None, 1e-5, fused)
    given = arrays(backend, x, weight, bias, residual)
    backend.ran.clear()
    ours = backend.batch_norm(*given[:3], given[3] if fused else None, 1e-5, fused)
    for got, wanted in zip(ours, expected, strict=True):
        assert_close(backend.to_host(got), wanted, 2e-4 if mean else 2e-5)
    y, means, _, factor = expected
    wanted = Reference().batch_norm_gradients(dy, x, y if fused else None, weight, means, factor, fused)
    kept = arrays(backend, dy, x, y, weight)
    found = backend.batch_norm_gradients(*kept[:2], kept[2] if fused else None, kept[3], ours[1], ours[3], fused)
    # Without its mean and slope, nothing but rounding may be left of dL/dy: errors are measured by its terms.
    terms = np.abs(dy).max() * np.abs(weight * factor).max()
    assert np.abs(backend.to_host(found[0]) - wanted[0]).max() < (2e-4 if mean else 2e-6) * terms
    for got, one in zip(found[1:], wanted[1:], strict=True):
        assert_close(backend.to_host(got), one, 2e-4)
    assert (backend.ran["batch_norm.fast"], backend.ran["batch_norm_gradients.fast"]) == (1, 1)


@on_devices
def test_average_pooling_counts_of_rows_and_columns(backend: Backend) -> None:
    x, window = RNG(0).standard_normal((2, 3, 6, 7)), Window((3, 3), (2, 2), (1, 1, 1, 1))
    divisor = ([2, 3, 3], [2, 3, 3, 2])
    hold(backend, "avg_pool2d", x, window, divisor)
    dy = RNG(1).standard_normal((2, 3, *window.output_size(6, 7)))
    hold(backend, "avg_pool2d_gradient", dy, x.shape, window, divisor)


@on_devices
def test_im2col_and_col2im(backend: Backend) -> None:
    x, window = RNG(0).standard_normal((2, 3, 6, 7)), Window((3, 2), (2, 1), (1, 0, 2, 1), (1, 2))
    hold(backend, "im2col", x, window)
    columns = Reference().im2col(x, window)
    hold(backend, "col2im", columns, x.shape, window)


@on_devices
def test_pixels_gathered_by_index(backend: Backend) -> None:
    images = RNG(0).integers(0, 256, (9, 2, 3, 4), np.uint8)
    indices, scale, shift = np.array([8, 0, -1, 3, 3]), np.array([0.5, 2.0], "f"), np.array([1.0, -1.0], "f")
    given = [backend.asarray(one) for one in (images, indices, scale, shift)]
    backend.ran.clear()
    got = backend.to_host(backend.gather(*given, np.dtype("float32")))
    assert backend.ran["gather.fast"] == 1
    assert_close(got, images[indices] * scale[:, None, None] + shift[:, None, None].astype(np.float64), 1e-6)


@on_devices
@pytest.mark.parametrize("count", [1, 255, 256, 1000])
def test_the_mean_of_losses_and_its_gradient(backend: Backend, count: int) -> None:
    hold(backend, "mean_loss", RNG(0).standard_normal(count), float(count))
    x, factor = RNG(1).standard_normal((count, 3)), np.array(1.7)
    hold(backend, "scale", x, factor, 3.0)


@on_devices
@pytest.mark.parametrize("count", [1, 12, 13, 30])
def test_many_arrays_copied_at_once(backend: Backend, count: int) -> None:
    host = [RNG(i).standard_normal((i + 1, 3)).astype(np.float32) for i in range(count)]
    targets = [backend.xp.zeros((i + 1, 3), np.float32) for i in range(count)]
    sources = [backend.asarray(one) for one in host]
    sources[0] = backend.asarray(np.ascontiguousarray(host[0].T)).T  # which takes a copy of its own
    backend.copy_all(list(zip(targets, sources, strict=True)))
    for target, expected in zip(targets, host, strict=True):
        assert np.array_equal(backend.to_host(target), expected)


UPDATES: dict[str, tuple[str, int, dict[str, Any]]] = {  # method, arrays of state, numbers
    "sgd": ("sgd_update", 0, {"lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}),
    "sgd, decay": ("sgd_update", 0, {"lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.3}),
    "momentum": ("sgd_update", 1, {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.3}),
    "nesterov": ("sgd_update", 1, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0}),
    "adam": ("adam_update", 2, {
        "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.0, "step": 1, "decoupled": False}),
    "adam, decay": ("adam_update", 2, {
        "lr": 0.1, "beta1": 0.8, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.2, "step": 7, "decoupled": False}),
    "adamw": ("adam_update", 2, {
        "lr": 0.1, "beta1": 0.8, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.2, "step": 3000, "decoupled": True}),
}  # fmt: skip


@on_devices
@pytest.mark.parametrize("where", [None, True, False])
@pytest.mark.parametrize("name", UPDATES)
def test_updates_are_the_references(backend: Backend, name: str, where: bool | None) -> None:
    method, state, numbers = UPDATES[name]
    host = [abs(RNG(i).standard_normal(1000)) if i > 1 else RNG(i).standard_normal(1000) for i in range(2 + state)]
    device = arrays(backend, *host)
    missing = [None] if (method, state) == ("sgd_update", 0) else []
    condition = {} if where is None else {"where": backend.asarray(np.array(where))}
    getattr(backend, method)(*device, *missing, **numbers, **condition)
    assert ran(backend, ".fast") >= {method}
    getattr(Reference(), method)(*host, *missing, **numbers, **({} if where is None else {"where": np.array(where)}))
    for got, expected in zip(device, host, strict=True):
        assert_close(backend.to_host(got), expected, 1e-6)


# --- what the kernels leave to the reference -----------------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("dtype", ["float64"])
def test_other_dtypes_and_empty_batches_take_the_reference(backend: Backend, dtype: str) -> None:
    backend.ran.clear()
    for kind, N in ((dtype, 2), ("float32", 0)):
        x = gpucnn.tensor(np.zeros((N, 2, 6, 6), kind))
        F.max_pool2d(F.relu(F.conv2d(x, gpucnn.tensor(np.zeros((3, 2, 3, 3), kind)))), 2)
    assert ran(backend, ".fast") == set()


def test_an_image_too_large_for_32_bits_takes_the_reference() -> None:
    wide = np.broadcast_to(np.float32(0), (1, 1, 40_000, 40_000))
    small = np.zeros((1, 1, 3, 3), np.float32)
    assert not conv.fits(wide.shape, small.shape, Window((3, 3)), 1)
    assert conv.fits((9_000_000, 1, 28, 28), small.shape, Window((3, 3)), 1)


@pytest.mark.parametrize(
    ("filters", "channels", "tf32", "expected"),
    [(64, 64, False, ""), (256, 256, False, ""), (512, 512, False, "w"), (1024, 1024, False, "fiw"),
     (100, 100, False, "fi"), (20, 3, False, ""), (64, 64, True, ""), (256, 256, True, "w"), (1024, 512, True, "fiw")],
)  # fmt: skip
def test_where_columns_are_estimated_to_pay(
    standin: Any, filters: int, channels: int, tf32: bool, expected: str
) -> None:
    x, w, dy = (np.broadcast_to(np.float32(0), shape) for shape in (
        (2, channels, 8, 8), (filters, channels, 3, 3), (2, filters, 8, 8)
    ))  # fmt: skip
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    calls = {
        "f": (ops.conv2d, (x, w, None, window)), "i": (ops.conv2d_input_gradient, (dy, w, x.shape, window)),
        "w": (ops.conv2d_weight_gradient, (x, dy, w.shape, window)),
    }  # fmt: skip
    found = ""
    with standin.tf32(tf32):
        for letter, (operation, arguments) in calls.items():
            serves = next(s for s, f in operation.implementations["cuda"] if f.__module__ == columns.__name__)
            found += letter * serves(standin, *arguments)
            assert not serves(standin, *arguments, 2)
    assert found == expected


def test_the_tiles() -> None:
    assert [conv.tile(rows) for rows in (1, 8, 9, 32, 33, 500)] == [8, 8, 16, 16, 64, 64]
