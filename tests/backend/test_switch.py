"""Which backend computes: names, defaults of process and thread, GPUCNN_DEVICE, and a GPU that is not there."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn.backend import Backend, backend_of, default_backend, get_backend, registry, use
from gpucnn.backend.cpu import CpuDevice
from gpucnn.errors import DeviceError, MixedDeviceError, ParameterError


@pytest.fixture
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CuPy cannot be imported, and no backend of a GPU was made before."""
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "cupy"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "cupy", None)
        patch.setattr(registry, "_devices", {"cpu": get_backend("cpu")})
        patch.setattr(registry, "_told_why", False)
        yield


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_one_backend_for_each_device(standin: Backend) -> None:
    assert get_backend("cpu") is get_backend("cpu")
    assert get_backend("cuda") is get_backend("cuda:0") is get_backend("cuda:00") is standin
    assert get_backend(standin) is standin
    assert get_backend("auto") is standin
    assert get_backend(None) is default_backend()
    assert copy.deepcopy(standin) is standin


@pytest.mark.parametrize(
    "device", ["GPU", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda:٣", "cpu:0", "", " cpu", 0, 1.5, True, b"cpu", ["cpu"]]
)
def test_a_device_that_is_none_is_named(device: Any) -> None:
    with pytest.raises(ParameterError, match=r"get_backend: device: expected 'cpu', 'cuda', 'cuda:N' or 'auto', got"):
        get_backend(device)
    with pytest.raises(ParameterError):
        gpucnn.tensor([1.0], device=device)
    with pytest.raises(ParameterError):
        use(device)


def test_a_gpu_of_too_high_a_number_is_named(standin: Backend) -> None:
    with pytest.raises(DeviceError, match="a number below 1, the count of GPUs, got 7"):
        get_backend("cuda:7")


def test_without_cupy_cuda_says_why_and_what_to_install(no_cupy: None) -> None:
    with pytest.raises(DeviceError, match=r"CuPy cannot be imported.*pip install 'gpucnn\[cuda13\]'"):
        get_backend("cuda")
    with pytest.raises(DeviceError):
        gpucnn.tensor([1.0]).cuda()


def test_auto_says_nothing_where_there_is_no_driver(no_cupy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "has_driver", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_backend("auto").name == "cpu"


def test_auto_falls_back_and_says_why_once(no_cupy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "has_driver", lambda: True)
    with pytest.warns(UserWarning, match="device auto: using the CPU, because CuPy cannot be imported"):
        assert get_backend("auto").name == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_backend("auto").name == "cpu"


def break_product(cupy: Any, patch: pytest.MonkeyPatch) -> None:
    def matmul(*arguments: Any) -> None:
        raise ImportError("libcublas.so.13: cannot open shared object file")

    patch.setattr(cupy, "matmul", matmul)


def break_driver(cupy: Any, patch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient\nsecond line")

    patch.setattr(cupy.cuda.runtime, "getDeviceCount", count)


def break_arithmetic(cupy: Any, patch: pytest.MonkeyPatch) -> None:
    ones = cupy.ones
    patch.setattr(cupy, "ones", lambda *arguments: ones(*arguments) * 2)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_product, r"cuda:0 is there but cannot compute \(ImportError: libcublas"),
        (break_driver, r"no usable GPU or driver \(RuntimeError: cudaErrorInsufficientDriver"),
        (break_arithmetic, "computes wrongly"),
    ],
)
def test_a_gpu_that_does_not_work_says_why_in_one_line(
    standin: Backend, monkeypatch: pytest.MonkeyPatch, damage: Any, words: str
) -> None:
    monkeypatch.setattr(registry, "_devices", {})
    damage(standin.xp, monkeypatch)
    with pytest.raises(DeviceError, match=words) as caught:
        get_backend("cuda")
    assert "\n" not in str(caught.value)


def test_use_sets_the_process_and_with_use_only_the_thread(standin: Backend) -> None:
    def elsewhere() -> str:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(gpucnn.tensor([1.0]).device))
        thread.start()
        thread.join()
        return found[0]

    with ExitStack() as stack:
        stack.callback(use, default_backend())
        with use("cuda") as chosen:
            assert chosen is standin
            assert gpucnn.tensor([1.0]).device == "cuda:0"
            assert elsewhere() == "cpu"
            with use("cpu"):
                assert gpucnn.tensor([1.0]).device == "cpu"
            assert gpucnn.tensor([1.0]).device == "cuda:0"
        assert gpucnn.tensor([1.0]).device == "cpu"
        use("cuda")
        assert gpucnn.tensor([1.0]).device == elsewhere() == "cuda:0"
    assert gpucnn.tensor([1.0]).device == "cpu"


def test_with_use_ends_with_an_exception(standin: Backend) -> None:
    with pytest.raises(KeyError), use("cuda"):
        raise KeyError
    assert gpucnn.tensor([1.0]).device == "cpu"


def test_the_environment_chooses_the_device() -> None:
    code = "import gpucnn; print(gpucnn.tensor([1.0]).device)"
    assert run_python(code, GPUCNN_DEVICE="cpu").stdout == "cpu\n"
    assert run_python(code, GPUCNN_DEVICE="").stdout == "cpu\n"
    wrong = run_python(code, GPUCNN_DEVICE="GPU")
    assert wrong.stderr.splitlines()[-1].startswith("gpucnn.errors.ParameterError: GPUCNN_DEVICE: get_backend: device")


def test_the_environment_chooses_the_threads() -> None:
    code = "import gpucnn; cpu = gpucnn.get_backend('cpu'); print(cpu.threads, cpu.blas.count)"
    assert run_python(code, GPUCNN_THREADS="7").stdout == "7 1\n"
    assert run_python(code, GPUCNN_THREADS="", GPUCNN_BLAS_THREADS="2").stdout.endswith(" 2\n")
    for variable in ("GPUCNN_THREADS", "GPUCNN_BLAS_THREADS"):
        for wrong in ("0", "-1", "two", "1.5", "9" * 30):
            said = run_python(code, **{variable: wrong}).stderr.splitlines()[-1]
            assert f"{variable}: value: expected a positive whole number, got '{wrong}'" in said


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_a_wrong_number_of_threads_is_named(threads: Any) -> None:
    with pytest.raises(ParameterError, match="CpuDevice: threads: expected a positive int"):
        CpuDevice(threads=threads)


def test_threads_may_be_counted_by_numpy() -> None:
    count = CpuDevice(threads=np.int64(3)).threads  # type: ignore[arg-type]
    assert (count, type(count)) == (3, int)


def test_the_backend_follows_from_the_array(standin: Backend) -> None:
    assert backend_of(np.ones(2)).name == "cpu"
    assert backend_of(standin.xp.ones(2)) is standin
    for other in ([1.0], 1.0, None, "a"):
        with pytest.raises(MixedDeviceError, match=r"Use gpucnn\.tensor"):
            backend_of(other)


def test_printing_tells_device_and_dtype(backend: Backend) -> None:
    device = "" if backend.name == "cpu" else f", device='{backend.name}'"
    assert repr(gpucnn.tensor([1.0, 2.5])) == f"tensor([1. , 2.5]{device})"
    assert repr(gpucnn.tensor(3)) == f"tensor(3{device})"
    assert (
        repr(gpucnn.tensor(np.ones(1), requires_grad=True))
        == f"tensor([1.], dtype=float64{device}, requires_grad=True)"
    )
    assert repr(gpucnn.tensor([1.0], requires_grad=True) * 2).endswith(", from mul)")
    assert backend.name in repr(backend)
