"""Matrix products by cuBLAS through a handle of our own: on a library with its prototypes that the stand-in makes."""

from __future__ import annotations

import ctypes
import importlib.metadata
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captured_steps import losses_and_weights
from conftest import replace_backend
from cuda_operations import DEVICES, RNG
from oracles import assert_close

import gpucnn
import gpucnn.functional as F
from gpucnn import nn, optim
from gpucnn.backend import Backend, Window, get_backend
from gpucnn.backend.cuda import blas, columns, linear
from gpucnn.backend.dispatch import OPERATIONS
from gpucnn.training import train_step

on_devices = pytest.mark.parametrize("backend", DEVICES, indirect=True)


# --- values ----------------------------------------------------------------------------------------------------------


def laid_out(backend: Any, host: Any, layout: str) -> Any:
    """Return a device array of these values, in memory by rows, by columns, or a part of a larger array."""
    if layout == "rows":
        return backend.asarray(host)
    if layout == "columns":
        return backend.asarray(np.ascontiguousarray(host.swapaxes(-1, -2))).swapaxes(-1, -2)
    wider = np.zeros((*host.shape[:-1], host.shape[-1] + 3), host.dtype)
    wider[..., 2:-1] = host
    return backend.asarray(wider)[..., 2:-1]


@on_devices
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("left", "right"),
    [((5, 7), (7, 3)), ((1, 7), (7, 1)), ((3, 5, 7), (3, 7, 4)), ((2, 3, 5, 1), (2, 3, 1, 4)), ((2, 3, 5, 7), (7, 4))],
)
def test_products_in_every_layout(
    backend: Backend, left: Any, right: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "CUBLAS_FROM", 1)
    a, b = RNG(0).standard_normal(left).astype(dtype), RNG(1).standard_normal(right).astype(dtype)
    for first in ("rows", "columns", "part"):
        for second in ("rows", "columns", "part"):
            before = backend.ran["matmul.fast"]
            found = backend.matmul(laid_out(backend, a, first), laid_out(backend, b, second))
            assert backend.ran["matmul.fast"] == before + 1
            assert found.dtype == dtype
            assert_close(backend.to_host(found), a @ b, 1e-5 if dtype == "float32" else 1e-12)


@on_devices
def test_what_it_does_not_take_is_left_to_cupy(backend: Backend) -> None:
    for left, right in (((3, 5, 7), (1, 7, 4)), ((0, 7), (7, 4)), ((7,), (7, 4))):
        before = backend.ran["matmul.reference"]
        found = backend.matmul(backend.asarray(np.ones(left)), backend.asarray(np.ones(right)))
        assert backend.ran["matmul.reference"] == before + 1
        assert found.shape == (np.ones(left) @ np.ones(right)).shape


@on_devices
def test_many_images_are_worked_on_in_parts(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "pay", lambda *arguments, **named: True)
    x, w, dy = (RNG(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(
        ((7, 3, 6, 5), (4, 3, 3, 3), (7, 4, 4, 3))
    ))  # fmt: skip
    given, window = [backend.asarray(one) for one in (x, w, dy)], Window((3, 3))

    def found() -> list[Any]:
        y = backend.conv2d(given[0], given[1], None, window)
        dx = backend.conv2d_input_gradient(given[2], given[1], x.shape, window)
        dw, db = backend.conv2d_weight_gradient(given[0], given[2], w.shape, window)
        return [backend.to_host(one) for one in (y, dx, dw, db)]

    whole = found()
    monkeypatch.setattr(columns, "MOST_BYTES", 2 * 4 * 12 * 27 + 1)  # two images
    for one, other in zip(found(), whole, strict=True):
        assert_close(one, other, 1e-5)


def test_the_second_gpu_has_a_handle_of_its_own(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from standin import devices

    monkeypatch.setattr(columns, "pay", lambda *arguments, **named: True)
    a, b = RNG(0).standard_normal((3, 5, 7)), RNG(1).standard_normal((3, 7, 4))
    image, w = RNG(2).standard_normal((2, 3, 6, 5)), RNG(3).standard_normal((4, 3, 3, 3))
    with ExitStack() as stack:
        stack.enter_context(devices.several(2))
        replace_backend(stack, "cuda:1", None)
        found = []
        for device in (
            get_backend("cuda:1"),
            get_backend("cuda"),
            get_backend("cuda:1"),
        ):  # the library checks its handle
            product = device.matmul(device.asarray(a), device.asarray(b))
            assert_close(device.to_host(product), a @ b, 1e-12)
            given = [device.asarray(one.astype(np.float32)) for one in (image, w)]
            found.append(device.to_host(device.conv2d(*given, None, Window((3, 3)))).tobytes())
        assert len(set(found)) == 1


# --- captured --------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A convolution by columns, large products, a batched one, and one in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(3, 4, 3), nn.Linear(64, 5)

    def forward(self, x: Any) -> Any:
        y = F.relu(self.conv(x)).reshape(x.shape[0], 4, 16)
        y = (y @ y.transpose(1, 2)) @ y
        wide = y.to("float64").reshape(x.shape[0], 64)
        return self.dense((wide @ wide.T @ wide).to("float32") * 0.01)


@on_devices
@pytest.mark.parametrize("tf32", [False, True])
def test_a_step_with_cublas_is_captured(backend: Backend, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CUBLAS_FROM", 1)
    monkeypatch.setattr(columns, "pay", lambda *arguments, **named: True)
    inputs = RNG(0).standard_normal((3, 4, 3, 6, 6)).astype(np.float32)

    def trained(captured: bool) -> list[bytes]:
        return losses_and_weights(Mixed, inputs, captured)

    with backend.tf32(tf32):
        assert trained(captured=True) == trained(captured=False)


def test_cublas_is_one_launch_and_no_transfer(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "pay", lambda *arguments, **named: True)
    x, w, dy = (standin.asarray(np.ones(shape, np.float32)) for shape in ((2, 3, 6, 5), (4, 3, 3, 3), (2, 4, 4, 3)))
    with standin.xp.standin.launches.counted() as launches, standin.xp.standin.transfers.counted() as moved:
        standin.conv2d(x, w, None, Window((3, 3)))
        standin.conv2d_input_gradient(dy, w, x.shape, Window((3, 3)))
        standin.conv2d_weight_gradient(x, dy, w.shape, Window((3, 3)))
    assert launches == {"im2col": 2, "transpose_pages": 3, "gemm": 4, "col2im": 1, "ones": 1}
    assert moved.total == 0


# --- faults ----------------------------------------------------------------------------------------------------------


def losses(device: Any) -> list[Any]:
    with gpucnn.use(device):
        gpucnn.manual_seed(3)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        x = gpucnn.tensor(RNG(0).standard_normal((6, 3, 6, 6)).astype(np.float32))
        y = gpucnn.tensor([0, 1, 2, 0, 1, 2])
        return [train_step(net, nn.CrossEntropyLoss(), optimizer, x, y)[0].item() for _ in range(3)]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("imprecise", r"columns \(conv2d gives a wrong answer\); blas \(matmul gives a wrong answer\)\. Other"),
        ("refused", r"blas \(DeviceError: cuBLAS: cublasGemmEx failed with status 13"),
        ("missing", r"blas \(OSError: libcublas\.so\.0"),
    ],
)  # fmt: skip
def test_what_cublas_gets_wrong_is_switched_off(
    standin: Any, fault: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(linear, "CUBLAS_FROM", 1)
    monkeypatch.setattr(columns, "pay", lambda *arguments, **named: True)
    library = blas.library()
    if fault == "imprecise":
        monkeypatch.setitem(blas.KINDS, "float32", (0, blas.IN_TF32, ctypes.c_float))
    elif fault == "refused":
        monkeypatch.setattr(blas, "library", lambda: Failing(library))
    else:
        monkeypatch.setattr(blas, "library", lambda: ctypes.CDLL("libcublas.so.0"))
    with ExitStack() as stack:
        replace_backend(stack, "cuda:0", None)
        with pytest.warns(UserWarning, match=said) as caught:
            device = get_backend("cuda")
        assert len(caught) == 1
        np.testing.assert_allclose(losses(device), losses("cpu"), rtol=1e-4)
        assert device.ran["conv2d.fast"]
        for operation in OPERATIONS.values():
            operation.implementations.pop(device.kind, None)


class Failing:
    """cuBLAS that finds no kernel for a product."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return (lambda *arguments: 13) if "Gemm" in name else getattr(self._library, name)


def test_without_memory_for_a_workspace_the_error_is_of_memory(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "library", lambda: type("Full", (), {"cublasCreate_v2": lambda *given: 3}))
    with pytest.raises(MemoryError, match="cublasCreate_v2 finds no memory"):
        blas.call(blas.library(), "cublasCreate_v2")


# --- the stand-in ----------------------------------------------------------------------------------------------------


def test_the_library_refuses_what_the_real_one_does(standin: Any, capfd: pytest.CaptureFixture[str]) -> None:
    stream, handle = standin.xp.cuda.Stream(non_blocking=True), ctypes.c_void_p()
    a, room = standin.asarray(np.ones((4, 4), np.float32)), standin.asarray(np.zeros(64, np.uint8))
    one = ctypes.byref(ctypes.c_float(1))

    def multiply(lead: int = 4, kind: int = 0, compute: int = 68, pointer: int | None = None) -> None:
        matrix, first = (a.data.ptr, kind, 4), (pointer or a.data.ptr, kind, lead)
        blas.call(
            blas.library(), "cublasGemmEx", handle, 0, 0, 4, 4, 4, one, *first, *matrix, one, *matrix, compute, -1
        )

    def refused(why: str, *arguments: Any, **named: Any) -> None:
        with pytest.raises(gpucnn.errors.DeviceError, match="status"):
            multiply(*arguments, **named)
        assert why in capfd.readouterr().err

    blas.call(blas.library(), "cublasCreate_v2", ctypes.byref(handle))
    refused("no workspace")
    blas.call(blas.library(), "cublasSetWorkspace_v2", handle, room.data.ptr, 64)
    multiply()
    refused("leading dimension 3", 3)
    refused("where 16 float32", 8)
    refused("types 0, 0, 0 computed in 64", compute=64)
    refused("no address", pointer=4096)
    with stream:
        refused("not the current stream")
        blas.call(blas.library(), "cublasSetStream_v2", handle, stream.ptr)
        refused("no workspace")  # the stream takes it away
        stream.begin_capture()
        with pytest.raises(gpucnn.errors.DeviceError, match="cublasCreate_v2 failed"):
            blas.call(blas.library(), "cublasCreate_v2", ctypes.byref(ctypes.c_void_p()))
        stream.end_capture()


def test_the_prototypes_are_those_of_nvidias_header(standin: Any) -> None:
    """Compiles the library with NVIDIA's header before it, if that is installed: two prototypes must not differ."""
    from standin import cublas

    names = (
        "nvidia-cublas",
        "nvidia-cublas-cu12",
        "nvidia-cuda-runtime",
        "nvidia-cuda-runtime-cu12",
        "nvidia-cuda-crt",
    )
    files = [file for name in names for file in _files(name) if file.suffix == ".h"]
    folders = {Path(str(file.locate())).parent for file in files if "crt" not in file.parts}
    folders = {*folders, Path("/usr/local/cuda/include")}
    if not any((folder / "cublas_api.h").exists() for folder in folders):
        pytest.skip("cuBLAS's header is not installed (pip install nvidia-cublas)")
    included = [part for folder in sorted(folders) for part in ("-I", str(folder))]
    command = ["gcc", "-fsyntax-only", "-Werror", *included, "-include", "cublas_api.h", str(cublas.SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No such file" in done.stderr:
        pytest.skip(f"a header of CUDA's runtime is not installed: {done.stderr}"[:300])
    assert done.returncode == 0, done.stderr
    header = next(one.read_text() for folder in folders if (one := folder / "cublas_api.h").exists())
    for name, value in (
        ("OP_N", blas.OP_N), ("OP_T", blas.OP_T), ("GEMM_DEFAULT", blas.DEFAULT_ALGORITHM),
        ("COMPUTE_32F", blas.KINDS["float32"][1]), ("COMPUTE_64F", blas.KINDS["float64"][1]),
        ("COMPUTE_32F_FAST_TF32", blas.IN_TF32), ("STATUS_ALLOC_FAILED", blas.ALLOCATION_FAILED),
    ):  # fmt: skip
        assert f"CUBLAS_{name} = {value}," in " ".join(header.split()), name


def _files(package: str) -> list[importlib.metadata.PackagePath]:
    try:
        return importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []
