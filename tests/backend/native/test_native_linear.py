"""Products of matrices in parts on the pool's threads: against NumPy's in float64, between guards."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from native_kernels import Device, Host

from gpucnn.backend import ops
from gpucnn.backend.cpu import CpuDevice, native_linear
from gpucnn.backend.cpu.threads import BlasThreads
from gpucnn.backend.native import library

SGEMM = BlasThreads(1).sgemm()
if library() is None or SGEMM is None:
    pytest.skip("no compiled kernels, or another BLAS than OpenBLAS", allow_module_level=True)

SIZES = (
    (64, 120, 400),
    (120, 400, 64),
    (1, 900, 1500),
    (1500, 1, 900),
    (1100, 1300, 1),
    (25, 25, 2100),
    (1000, 120, 400),
)


def guarded(device: Device, a: Host, order: str) -> Host:
    copy = device.empty(a.shape if order == "C" else a.shape[::-1], a.dtype)
    copy[...] = a if order == "C" else a.T
    return copy if order == "C" else copy.T


def drawn(*shapes: tuple[int, ...]) -> list[Host]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


@pytest.mark.parametrize("order_b", ["C", "F"])
@pytest.mark.parametrize("order_a", ["C", "F"])
@pytest.mark.parametrize(("M", "N", "K"), SIZES)
def test_products(M: int, N: int, K: int, order_a: str, order_b: str) -> None:
    a, b, bias = drawn((M, K), (K, N), (N,))
    for added in (None, bias):
        found = []
        for threads in (1, 2, 5):
            device = Device(threads)
            device.sgemm = SGEMM
            given = None if added is None else device.empty((N,), np.float32)
            if given is not None:
                given[...] = bias
            y = native_linear.product(device, guarded(device, a, order_a), guarded(device, b, order_b), given)
            device.check()
            found.append(y)
        expected = a.astype(np.float64) @ b + (0 if added is None else bias)
        np.testing.assert_allclose(found[0], expected, atol=1e-6 * K + 1e-5)
        assert all(np.array_equal(found[0], y) for y in found), "any number of threads gives the same bits"


def test_numbers_that_are_none_and_infinite_are_where_numpy_has_them() -> None:
    a, b = drawn((200, 100), (100, 300))
    a[3, 4], a[7, 8], b[5, 6], b[:, 9] = np.nan, np.inf, -np.inf, 0
    a[10] = 1e-44
    device = CpuDevice(threads=3)
    with np.errstate(all="ignore"):
        expected = a @ b
    y = ops.matmul(device, a, b)
    assert device.ran["matmul.fast"] == 1
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(expected))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_several_callers_and_forked_children_get_the_same_bits() -> None:
    device, (a, b) = CpuDevice(threads=3), drawn((500, 400), (400, 300))
    expected = ops.matmul(device, a, b)
    with ThreadPoolExecutor(4) as executor:
        for found in executor.map(lambda _: ops.matmul(device, a, b), range(40)):
            assert np.array_equal(found, expected)
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            os._exit(0 if np.array_equal(ops.matmul(device, a, b), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the products that come to the compiled kernel."""
    seen: list[tuple[int, ...]] = []
    product = native_linear.product

    def watched(device: CpuDevice, a: Host, b: Host, bias: Host | None) -> Any:
        seen.append((*a.shape, b.shape[1]))
        return product(device, a, b, bias)

    monkeypatch.setattr(native_linear, "product", watched)
    return seen


def test_which_products_are_cut(calls: list[tuple[int, ...]]) -> None:
    device = CpuDevice(threads=2)
    a, b, w, bias = drawn((256, 400), (400, 120), (120, 400), (120,))
    for left, right in (
        (a, b),
        (a[:8], b),
        (a.astype(np.float64), b.astype(np.float64)),
        (a[::2], b),
        (a[:, 3:], b[3:]),
    ):
        np.testing.assert_allclose(ops.matmul(device, left, right), left @ right, atol=1e-3)
    np.testing.assert_allclose(ops.linear(device, a, w, bias), a @ w.T + bias, atol=1e-3)
    assert calls == [(256, 400, 120)] * 2


def test_threads_of_the_blas_take_products_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_BLAS_THREADS", "2")
    try:
        assert CpuDevice().sgemm is None
    finally:
        monkeypatch.delenv("GPUCNN_BLAS_THREADS")
        assert CpuDevice().sgemm == SGEMM
    assert CpuDevice(compiled=False).sgemm is None


def test_the_blas_of_scipy_changes_nothing() -> None:
    pytest.importorskip("scipy")
    program = """
from gpucnn.backend.cpu.threads import BlasThreads
found = BlasThreads(1).sgemm()
import scipy.linalg
assert found == BlasThreads(1).sgemm(), (found, BlasThreads(1).sgemm())
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_blas_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]) -> None:
    blas = BlasThreads(1)
    for found in blas._libraries:
        monkeypatch.setattr(type(found), "internal_api", "blis")
    assert blas.sgemm() is None
    monkeypatch.setattr(BlasThreads, "sgemm", lambda self: None)
    a, b = drawn((256, 400), (400, 120))
    np.testing.assert_allclose(ops.matmul(CpuDevice(threads=2), a, b), a @ b, atol=1e-3)
    assert not calls


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"a": np.ones((20, 31), np.float32)}, "a: expected another shape"),
        ({"a": np.ones((20, 60), np.float32)[:, ::2]}, "a: expected rows or columns"),
        ({"a": np.ones((20, 30), np.float32)[::-1]}, "a: expected rows or columns"),
        ({"a": np.ones((20, 30))}, "a: expected float32"),
        ({"b": None}, "b: expected an array"),
        ({"y": np.ones((10, 20), np.float32).T[:19]}, "y: expected another number"),
        ({"y": np.ones((10, 20), np.float32).T}, "y: expected C-contiguous"),
        ({"bias": np.ones(9, np.float32)}, "bias: expected another number"),
        ({"M": -1}, "sizes"),
        ({"K": 2**62}, "sizes"),
        ({"address": 0}, "sgemm: expected an address"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_writes_nothing(change: dict[str, Any], error: str) -> None:
    assert SGEMM is not None
    arguments: dict[str, Any] = {"address": SGEMM[0], "wide": SGEMM[1], "M": 20, "N": 10, "K": 30}
    arguments |= {"a": np.ones((20, 30), np.float32), "b": np.ones((30, 10), np.float32), "rows": False, "bias": None}
    arguments |= {"y": np.zeros((20, 10), np.float32), "threads": 1}
    arguments |= change
    with pytest.raises(ValueError, match=error):
        library().matmul(*arguments.values())
    assert arguments["y"].max() <= 1
    assert arguments["y"] is change.get("y") or not arguments["y"].any()
