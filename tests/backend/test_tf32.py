"""Products and convolutions in TF32: what is rounded and what is not, every tile, and who chooses.

The kernels that run here are scalar twins of those for tensor cores (`tiles.cuh`): each thread of a warp holds the same
elements, and asks the others for theirs as the hardware does, by PTX's description; the inputs are rounded as the hardware
rounds them. What the twins cannot show: in which order, and with how many bits, tensor cores sum. The tests run on a GPU as
well where there is one; there, on tensor cores.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from cases import CONVOLUTIONS
from oracles import assert_close, to_tf32

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.backend import Backend, Window, get_backend
from gpucnn.backend.cuda import CudaDevice, columns, linear
from gpucnn.errors import DeviceError
from gpucnn.training import train_step

DEVICES = ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)]
on_devices = pytest.mark.parametrize("backend", DEVICES, indirect=True)
RNG = np.random.default_rng

SUMS = 2e-5
"""What the sums, in float32, may cost."""
FACTORS = 2.0**-10
"""What rounding both factors may cost, each by half of the last of 10 bits."""


class Reference(Backend):
    xp = np


def arrays(backend: Backend, *host: Any) -> list[Any]:
    return [backend.asarray(one.astype(np.float32)) for one in host]


def normal(seed: int, *shape: int) -> Any:
    return RNG(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


def hold(backend: Backend, method: str, factors: int, *arguments: Any) -> None:
    """Compare with the reference in float64: closely on rounded factors (they come first), else as TF32 warrants."""
    rounded = [to_tf32(one) for one in arguments[:factors]]
    close = getattr(Reference(), method)(*rounded, *arguments[factors:])
    exact = getattr(Reference(), method)(*arguments)
    given = [arrays(backend, one)[0] if isinstance(one, np.ndarray) else one for one in arguments]
    with backend.tf32():
        got = getattr(backend, method)(*given)
    triples = zip(got, close, exact, strict=True) if isinstance(got, tuple) else [(got, close, exact)]
    for ours, on_rounded, on_given in triples:
        assert_close(backend.to_host(ours), on_rounded, SUMS)
        assert_close(backend.to_host(ours), on_given, FACTORS)


# --- rounding ------------------------------------------------------------------------------------------------------------


@on_devices
def test_what_float32_multiplies_exactly_and_tf32_does_not(backend: Backend) -> None:
    below, tie, above = 1 + 2.0**-12, 1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-20
    x = np.array([[below, tie, above, -tie, 1 + 2.0**-10, 3.0, 2.0**100 * tie, 2.0**-100 * tie]])
    expected = [1, 1 + 2.0**-10, 1 + 2.0**-10, -1 - 2.0**-10, 1 + 2.0**-10, 3, 2.0**100 * (1 + 2.0**-10),
                2.0**-100 * (1 + 2.0**-10)]  # fmt: skip
    assert to_tf32(x)[0].tolist() == expected
    row, identity, one = arrays(backend, x, np.eye(8), np.ones((1, 1, 1, 1)))
    image = row.reshape(1, 1, 1, 8)
    assert np.array_equal(backend.to_host(backend.matmul(row, identity)), x)
    assert np.array_equal(backend.to_host(backend.conv2d(image, one, None, Window((1, 1)))).reshape(1, 8), x)
    with backend.tf32():
        products = [
            backend.matmul(row, identity),
            backend.matmul(identity, row.T),
            backend.conv2d(image, one, None, Window((1, 1))),
            backend.conv2d_input_gradient(image, one, (1, 1, 1, 8), Window((1, 1))),
            backend.conv2d_weight_gradient(row.reshape(1, 8, 1, 1), one, (1, 8, 1, 1), Window((1, 1)))[0],
        ]
    for got in products:
        assert backend.to_host(got).reshape(-1).tolist() == expected


@on_devices
def test_random_factors_are_rounded_as_the_definition_says(backend: Backend) -> None:
    x = RNG(0).standard_normal((40, 33)) * 10.0 ** RNG(1).integers(-30, 30, (40, 33))
    given, identity = arrays(backend, x, np.eye(33))
    with backend.tf32():
        got = backend.to_host(backend.matmul(given, identity))
    assert np.array_equal(got, to_tf32(x.astype(np.float32)))


@on_devices
def test_nan_and_infinity_stay_what_they_are(backend: Backend) -> None:
    x = np.array([[np.nan], [np.inf], [-np.inf], [1.0]])
    given, one = arrays(backend, x, np.ones((1, 1)))
    with backend.tf32():
        np.testing.assert_array_equal(backend.to_host(backend.matmul(given, one)), x)


@on_devices
def test_bias_and_stored_results_are_not_rounded(backend: Backend) -> None:
    fine = 1 + 2.0**-20
    x, w, b = arrays(backend, np.ones((2, 3)), np.ones((4, 3)), np.full(4, fine))
    with backend.tf32():
        assert np.array_equal(backend.to_host(backend.linear(x, w, b)), np.full((2, 4), np.float32(3 + fine)))
        y = backend.conv2d(*arrays(backend, np.ones((1, 1, 2, 2)), np.ones((4, 1, 1, 1))), b, Window((1, 1)))
    assert np.array_equal(backend.to_host(y), np.full((1, 4, 2, 2), np.float32(1 + fine)))


# --- every tile, against the reference in float64 ------------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(backend: Backend, case: str) -> None:
    shape, filters, window, groups = CONVOLUTIONS[case]
    x, w, b = normal(0, *shape), normal(1, filters, shape[1] // groups, *window.kernel), normal(2, filters)
    dy = normal(3, shape[0], filters, *window.output_size(*shape[2:]))
    hold(backend, "conv2d", 2, x, w, b, window, groups)
    hold(backend, "conv2d_input_gradient", 2, dy, w, shape, window, groups)
    hold(backend, "conv2d_weight_gradient", 2, x, dy, w.shape, window, groups)


@on_devices
@pytest.mark.parametrize("case", ["tile of 8", "two tiles of 16", "two tiles of 64", "groups of wide tiles"])
def test_convolution_relu_and_pooling_in_one(backend: Backend, case: str) -> None:
    shape, filters, window, groups = CONVOLUTIONS[case]
    x, w, b = normal(0, *shape), normal(1, filters, shape[1] // groups, *window.kernel), normal(2, filters)
    reference, rounded = Reference(), (to_tf32(x), to_tf32(w))
    expected, expected_place = reference.conv2d_relu_max_pool2d(*rounded, b, window, groups)
    dy = normal(3, *expected.shape)
    device = arrays(backend, x, w, b, dy)
    with backend.tf32():
        y, place = backend.conv2d_relu_max_pool2d(*device[:3], window, groups)
        got = backend.conv2d_relu_max_pool2d_gradients(
            device[0], device[1], device[3], place, window, groups, (True, True)
        )
    assert_close(backend.to_host(y), expected, SUMS)
    assert place is not None
    assert np.array_equal(backend.to_host(place), expected_place)
    wanted = reference.conv2d_relu_max_pool2d_gradients(
        *rounded, to_tf32(dy), expected_place, window, groups, (True, True)
    )
    for ours, theirs in zip(got, wanted, strict=True):
        assert_close(backend.to_host(ours), theirs, SUMS)


@on_devices
@pytest.mark.parametrize("side", linear.TILES)
@pytest.mark.parametrize("ways", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (17, 33, 20), (70, 65, 130)])
def test_products(
    backend: Backend, sizes: tuple[int, int, int], ways: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "side_of", lambda M, N: side)
    M, N, K = sizes
    a, b, bias = normal(0, M, K), normal(1, K, N), normal(2, N)
    expected = to_tf32(a) @ to_tf32(b)
    (first,) = arrays(backend, a) if ways[0] == "n" else [arrays(backend, np.ascontiguousarray(a.T))[0].T]
    (second,) = arrays(backend, b) if ways[1] == "n" else [arrays(backend, np.ascontiguousarray(b.T))[0].T]
    with backend.tf32():
        assert_close(backend.to_host(backend.matmul(first, second)), expected, SUMS)
        if ways == "nt":
            y = backend.linear(first, second.T, *arrays(backend, bias))
            assert_close(backend.to_host(y), expected + bias, SUMS)
        if ways == "tn":
            dw, db = backend.linear_parameter_gradients(second, first.T)
            assert_close(backend.to_host(dw), expected, SUMS)
            assert_close(backend.to_host(db), to_tf32(a).sum(1), SUMS)


# --- who chooses ---------------------------------------------------------------------------------------------------------

FINE = np.array([[1 + 2.0**-12]], np.float32)


def is_rounded(backend: Backend) -> bool:
    """Whether a product rounds its factors now."""
    fine = backend.asarray(FINE)
    return float(backend.to_host(backend.matmul(fine, backend.asarray(np.ones((1, 1), np.float32))))[0, 0]) == 1


@on_devices
def test_the_choice_ends_with_its_block_and_nests(backend: Backend) -> None:
    assert not is_rounded(backend)
    with backend.tf32():
        assert is_rounded(backend)
        with backend.tf32(enabled=False):
            assert not is_rounded(backend)
        assert is_rounded(backend)
    assert not is_rounded(backend)
    with pytest.raises(ZeroDivisionError), backend.tf32():
        raise ZeroDivisionError
    assert not is_rounded(backend)


@on_devices
def test_the_choice_is_the_threads_own(backend: Backend) -> None:
    seen: list[bool] = []
    with backend.tf32():
        other = threading.Thread(target=lambda: seen.append(backend.in_tf32))
        other.start()
        other.join()
    assert seen == [False]


@on_devices
def test_cublas_rounds_too_and_float64_stays_as_it_is(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CUBLAS_FROM", 1)
    monkeypatch.setattr(columns, "pay", lambda *arguments, **named: True)
    image, one = backend.asarray(FINE.reshape(1, 1, 1, 1)), backend.asarray(np.ones((1, 1, 1, 1), np.float32))

    def is_convolution_rounded() -> bool:
        return float(backend.to_host(backend.conv2d(image, one, None, Window((1, 1)))).item()) != FINE[0, 0]

    assert not is_rounded(backend)
    assert not is_convolution_rounded()
    with backend.tf32():
        assert is_rounded(backend)
        assert is_convolution_rounded()
        fine = backend.asarray(FINE.astype(np.float64))
        assert float(backend.to_host(backend.matmul(fine, fine))[0, 0]) == float(FINE[0, 0]) ** 2


def test_devices_without_tensor_cores_for_it_refuse(monkeypatch: pytest.MonkeyPatch, standin: Backend) -> None:
    cpu = get_backend("cpu")
    with (
        pytest.raises(
            DeviceError,
            match=r"tf32: device: expected a CUDA device of compute capability 8\.0 \(Ampere\) or newer, got cpu\.",
        ),
        cpu.tf32(),
    ):
        pass
    monkeypatch.setattr(standin.xp.cuda.Device, "compute_capability", "75")
    turing = CudaDevice()
    assert not turing.has_tf32
    with pytest.raises(DeviceError, match="got cuda:0"), turing.tf32():
        pass
    with turing.tf32(enabled=False), standin.tf32():
        assert standin.in_tf32
        assert not turing.in_tf32
        assert not cpu.in_tf32


@on_devices
def test_a_captured_step_is_recorded_for_each_precision(backend: Backend) -> None:
    def trained(captured: bool) -> list[Any]:
        gpucnn.manual_seed(3)
        net, found = models.build("simple_convnet:filter_num=2,stride=3,hidden=8"), []
        optimizer, loss_fn = optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss()

        def step(x: Any, y: Any) -> Any:
            return train_step(net, loss_fn, optimizer, x, y)

        run = gpucnn.capture(step, state=[net, loss_fn, optimizer]) if captured else step
        x, y = gpucnn.tensor(normal(0, 4, 1, 28, 28).astype(np.float32)), gpucnn.tensor([1, 2, 3, 4])
        for enabled in (False, True, False, True):
            with backend.tf32(enabled):
                found += [one.numpy().tobytes() for one in run(x, y)]
        if captured:
            assert [one is not None for one in run._variants.values()] == [True] * 3  # the first had no gradients yet
        return [*found, *(p.numpy().tobytes() for p in net.parameters())]

    assert trained(captured=True) == trained(captured=False)


def test_autotuning_measures_each_precision(monkeypatch: pytest.MonkeyPatch, standin: Backend) -> None:
    monkeypatch.setenv("GPUCNN_AUTOTUNE", "1")
    backend = CudaDevice()
    x, w = arrays(backend, normal(0, 1, 1, 3, 3), normal(1, 1, 1, 1, 1))
    for enabled in (False, True, True):
        with backend.tf32(enabled):
            backend.conv2d(x, w, None, Window((1, 1)))
    assert ["tf32" in case for case in backend.describe()["algorithms"]] == [False, True]
