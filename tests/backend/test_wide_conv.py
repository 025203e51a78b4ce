"""The wide kernels for convolutions: held against the reference for kernel sizes, strides, dilations and tails of tiles."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn
from gpucnn.backend import ops
from gpucnn.backend.cuda import CudaDevice, launch, wide_conv
from gpucnn.backend.cuda.proof import CLOSE, CLOSE_TF32, differs
from gpucnn.backend.cuda.proof_cases import WIDE, Case, Host
from gpucnn.backend.dispatch import OPERATIONS
from gpucnn.backend.geometry import Window

CASES: dict[str, tuple[tuple[int, ...], int, Window]] = {
    "1x1": ((3, 32, 5, 7), 32, Window((1, 1))),
    "1x1, stride 2": ((2, 32, 6, 7), 64, Window((1, 1), (2, 2))),
    "3x3": ((2, 64, 6, 6), 80, Window((3, 3), (1, 1), (1, 1, 1, 1))),
    "3x3, stride 2": ((2, 64, 7, 8), 32, Window((3, 3), (2, 2), (1, 1, 1, 1))),
    "stride 3 beyond the kernel": ((2, 32, 10, 11), 32, Window((2, 2), (3, 3))),
    "two strides": ((2, 32, 9, 8), 32, Window((3, 2), (1, 2), (1, 0, 0, 1))),
    "dilated": ((1, 48, 9, 9), 80, Window((3, 3), (1, 1), (2, 2, 2, 2), (2, 2))),
    "dilated and strided": ((2, 32, 11, 10), 48, Window((2, 3), (2, 2), (1, 1, 2, 2), (3, 2))),
    "a row": ((2, 96, 1, 30), 32, Window((1, 5), (1, 1), (0, 0, 2, 2))),
    "wholly in the padding": ((1, 32, 1, 1), 32, Window((3, 3), (1, 1), (3, 3, 3, 3))),
    "more pixels than a tile": ((3, 32, 12, 13), 32, Window((3, 3), (1, 1), (1, 1, 1, 1))),
}


@pytest.fixture
def device(standin: Any) -> CudaDevice:
    return CudaDevice()


def cases(shape: tuple[int, ...], F: int, window: Window) -> list[tuple[Any, Case]]:
    rng = np.random.default_rng(0)
    w_shape = F, shape[1], *window.kernel
    dy_shape = shape[0], F, *window.output_size(*shape[2:])
    x, w, b, dy = (rng.standard_normal(one).astype(np.float32) for one in (shape, w_shape, (F,), dy_shape))
    found: list[tuple[Any, Case]] = [
        (wide_conv.conv2d, Case(ops.conv2d, (x, w, b, window))),
        (wide_conv.conv2d, Case(ops.conv2d, (x, w, None, window))),
        (wide_conv.conv2d_input_gradient, Case(ops.conv2d_input_gradient, (dy, w, shape, window))),
        (wide_conv.conv2d_weight_gradient, Case(ops.conv2d_weight_gradient, (x, dy, w_shape, window))),
    ]
    if min(dy_shape[2:]) >= 2:
        pooled, indices = ops.conv2d_relu_max_pool2d(Host(), x, w, b, window, 1)
        given = rng.standard_normal(pooled.shape).astype(np.float32), indices.astype(np.uint8)  # type: ignore[union-attr]
        found += [
            (wide_conv.conv2d_relu_max_pool2d, Case(ops.conv2d_relu_max_pool2d, (x, w, b, window, 1))),
            (
                wide_conv.conv2d_relu_max_pool2d_gradients,
                Case(ops.conv2d_relu_max_pool2d_gradients, (x, w, *given, window, 1, (True, True))),
            ),
        ]
    return found


@pytest.mark.parametrize("tf32", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["float32", "tf32"])
@pytest.mark.parametrize("name", CASES)
def test_as_the_reference(device: CudaDevice, name: str, tf32: bool) -> None:
    with device.tf32(tf32):
        for function, case in cases(*CASES[name]):
            serves = next(s for s, f in case.operation.implementations["cuda"] if f is function)
            assert serves(device, *map(_on(device), case.arguments)), case.operation.name
            assert differs(device, case, function, CLOSE_TF32 if tf32 else CLOSE) is None


def _on(device: CudaDevice) -> Any:
    return lambda one: device.asarray(one) if isinstance(one, np.ndarray) else one


def test_every_tile_is_launched(device: CudaDevice) -> None:
    for shape, F, window in WIDE:
        for function, case in cases(shape, F, window):
            if min(F, shape[1]) >= 32 or function is not wide_conv.conv2d_weight_gradient:
                assert differs(device, case, function, CLOSE) is None
    macros = [options[len(launch.OPTIONS) :] for family, options in device._kernels if family == "wide_conv"]
    launched = {(m[6:9], m[9]) for m in macros}
    tiles = [(0, *tile) for tile in wide_conv.COLUMNS.items()] + [(1, *tile) for tile in wide_conv.COLUMNS.items()]
    tiles += [(2, side, side) for side in wide_conv.SIDES]
    expected = {
        ((f"-DPRODUCT={product}", f"-DROWS={rows}", f"-DCOLUMNS={columns}"), f"-DFUSED={fused}")
        for product, rows, columns in tiles
        for fused in (0, 1)
    }
    assert launched == expected


@pytest.mark.parametrize(
    ("shape", "F", "groups"),
    [((2, 3, 6, 6), 32, 1), ((2, 32, 6, 6), 8, 1), ((2, 32, 6, 6), 32, 2), ((2, 20, 6, 6), 32, 1)],
    ids=["few channels", "few filters", "groups", "no whole tile of channels"],
)
def test_the_rest_is_left_to_the_other_kernels(device: CudaDevice, shape: Any, F: int, groups: int) -> None:
    x = device.asarray(np.ones(shape, np.float32))
    w = device.asarray(np.ones((F, shape[1] // groups, 3, 3), np.float32))
    assert not wide_conv._forward_serves(device, x, w, None, Window((3, 3)), groups)


def test_bits_are_the_same_every_time(device: CudaDevice) -> None:
    rng = np.random.default_rng(3)
    x, dy = (device.asarray(rng.standard_normal((4, 32, 12, 12)).astype(np.float32)) for _ in range(2))
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    found = [wide_conv.weight_gradient(device, x, dy, None, (32, 32, 3, 3), window) for _ in range(2)]
    assert device.to_host(found[0][0]).tobytes() == device.to_host(found[1][0]).tobytes()


# --- kernels that are wrong on this device ---------------------------------------------------------------------------

FAULTS = {
    "a wrong answer": ("float4 four = {sum[i][j] + bias", "float4 four = {sum[i][j] - bias"),
    "no launch": ("__launch_bounds__(256) wide_forward(", "__launch_bounds__(32) wide_forward("),
    "no compilation": ("source.locate(s, tap);", "source.locat(s, tap);"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_kernel_is_not_used(device: CudaDevice, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    text, whole = launch.source("wide_conv"), launch.source
    old, new = FAULTS[fault]
    assert old in text
    faulty = text.replace(old, new)
    monkeypatch.setattr(launch, "source", lambda family: faulty if family == "wide_conv" else whole(family))
    gpucnn.manual_seed(0)
    layer = nn.Conv2d(16, 32, 3, padding=1)
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    expected = layer(gpucnn.tensor(x)).numpy()
    arrays = [device.asarray(one) for one in (x, layer.weight.numpy(), layer.bias.numpy())]  # type: ignore[union-attr]
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                got = device.to_host(ops.conv2d(device, *arrays, window, 1))
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        (warning,) = caught
        assert "wide_conv (kernel (3, 3), stride (1, 1): " in str(warning.message)
        assert device.ran["conv2d.fast"] == 2
    finally:
        for operation in OPERATIONS.values():
            if device.kind != "cuda":
                operation.implementations.pop(device.kind, None)


def test_no_more_than_64_kernel_sizes(device: CudaDevice) -> None:
    device.variants.update({("a size", number): True for number in range(wide_conv.MOST_VARIANTS)})
    assert not wide_conv._trusted(device, Window((3, 3)), np.float32)
    assert len(device.variants) == wide_conv.MOST_VARIANTS


def test_no_memory_says_nothing_about_the_kernels(device: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise MemoryError("8 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(CudaDevice, "empty", full)
        assert not wide_conv._trusted(device, Window((3, 3)), np.float32)
    assert wide_conv._trusted(device, Window((3, 3)), np.float32)


def test_a_captured_step_has_the_kernels_of_a_window_that_is_new(standin: Any) -> None:
    """They are compiled in the eager run before the capture, even if nothing ran the network before."""
    assert isinstance(standin, CudaDevice)
    with gpucnn.use(standin):
        net = nn.Conv2d(32, 32, 3)
        step = gpucnn.capture(lambda x: net(x), state=[net])
        x = gpucnn.tensor(np.ones((2, 32, 5, 5), np.float32))
        with gpucnn.no_grad():
            captured = step(x).numpy()
            assert standin.variants == {((3, 3), (1, 1), (1, 1), False, np.dtype(np.float32)): True}
            eager = net(x).numpy()
    np.testing.assert_array_equal(captured, eager)  # other kernels have other bits
