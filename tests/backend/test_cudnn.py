"""Convolutions by cuDNN: its package's stand-in computes them; the real one, where it is installed, builds their plans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captured_steps import losses_and_weights
from conftest import replace_backend
from cuda_operations import RNG
from oracles import assert_close

import gpucnn
from gpucnn import nn
from gpucnn.backend import Window, get_backend, ops
from gpucnn.backend.cuda import cudnn
from gpucnn.doctor import examine
from gpucnn.errors import DeviceError

CASES = {
    "padded": ((3, 4, 8, 7), (5, 4, 3, 3), Window((3, 3), (1, 1), (1, 1, 1, 1))),
    "strides": ((2, 3, 9, 10), (4, 3, 3, 2), Window((3, 2), (2, 3))),
    "uneven": ((2, 3, 9, 8), (4, 3, 3, 3), Window((3, 3), (2, 1), (1, 0, 0, 2), (2, 1))),
    "one pixel": ((2, 16, 5, 5), (24, 16, 1, 1), Window((1, 1))),
}


@pytest.fixture
def installed(standin: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package of the stand-in, and a new device that finds it."""
    from standin import cudnn as package

    module = package.module()
    monkeypatch.setitem(sys.modules, "cudnn", module)
    with ExitStack() as stack:
        replace_backend(stack, "cuda:0", None)
        yield module


def implementations(device: Any) -> list[str]:
    return [f.__module__.rpartition(".")[2] for _, f in ops.conv2d.implementations[device.kind]]


@pytest.mark.parametrize("case", CASES)
def test_the_three_products(installed: Any, standin: Any, case: str) -> None:
    x_shape, w_shape, window = CASES[case]
    dy_shape = (x_shape[0], w_shape[0], *window.output_size(*x_shape[2:]))
    x, w, b, dy = (RNG(i).integers(-9, 9, one).astype(np.float32) for i, one in enumerate(
        (x_shape, w_shape, w_shape[:1], dy_shape)
    ))  # fmt: skip
    device, cpu = get_backend("cuda"), get_backend("cpu")
    given = [device.asarray(one) for one in (x, w, b, dy)]

    def found(on: Any, x: Any, w: Any, b: Any, dy: Any) -> list[Any]:
        y, dx = on.conv2d(x, w, b, window), on.conv2d_input_gradient(dy, w, x_shape, window)
        dw, db = on.conv2d_weight_gradient(x, dy, w_shape, window)
        return [on.to_host(one) for one in (y, dx, dw, db)]

    with device.tf32():
        found(device, *given)
        with standin.xp.standin.launches.counted() as launches, standin.xp.standin.transfers.counted() as moved:
            results = found(device, *given)
    kinds = (cudnn.FORWARD, cudnn.INPUT_GRADIENT, cudnn.WEIGHT_GRADIENT)
    assert [launches[kind] for kind in kinds] == [1, 1, 1]
    assert moved.to_host == 4
    for ours, theirs in zip(results, found(cpu, x, w, b, dy), strict=True):
        assert_close(ours, theirs, 1e-5)


def test_it_comes_first_but_not_in_float32_nor_in_groups(installed: Any, standin: Any) -> None:
    device = get_backend("cuda")
    order = implementations(device)
    assert order.index("tuned") < order.index("cudnn") < order.index("columns") < order.index("wide_conv")
    x, w = (device.asarray(np.ones(shape, np.float32)) for shape in ((2, 4, 5, 5), (4, 2, 3, 3)))
    with standin.xp.standin.launches.counted() as launches:
        device.conv2d(x[:, :2], w, None, Window((3, 3)))
        with device.tf32():
            device.conv2d(x, w, None, Window((3, 3)), 2)
    assert cudnn.FORWARD not in launches


def test_a_step_is_captured(installed: Any) -> None:
    inputs = RNG(0).standard_normal((3, 4, 3, 6, 6)).astype(np.float32)

    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 5))

    def trained(captured: bool) -> list[bytes]:
        return losses_and_weights(net, inputs, captured)

    device = get_backend("cuda")
    with gpucnn.use(device), device.tf32():
        assert trained(captured=True) == trained(captured=False)


def convolved(device: Any) -> Any:
    x, w, _ = CASES["padded"]
    with device.tf32():
        y = device.conv2d(
            device.asarray(np.ones(x, np.float32)), device.asarray(np.ones(w, np.float32)), None, CASES["padded"][2]
        )
    return device.to_host(y)


@pytest.mark.parametrize("fault", ["wrong", "raises", "unsupported"])
def test_what_it_gets_wrong_is_left_to_our_kernels(installed: Any, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = convolved(get_backend("cuda"))
    with ExitStack() as stack:
        replace_backend(stack, "cuda:0", None)
        device: Any = get_backend("cuda")
        if fault == "wrong":
            monkeypatch.setattr(installed.pygraph, "execute", lambda self, tensors, workspace, handle: None)
            said = r"switched off: cudnn \(conv_fprop of \(3, 4, 8, 7\) with \(5, 4, 3, 3\) gives a wrong result\)"
        else:
            kind = RuntimeError if fault == "raises" else installed.cudnnGraphNotSupportedError

            def refuse(self: Any) -> None:
                raise kind("no engine\nat all")

            monkeypatch.setattr(installed.pygraph, "build_plans", refuse)
            said = r"switched off: cudnn \(RuntimeError: no engine\)"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = [convolved(device) for _ in range(2)]
        assert len(caught) == (fault != "unsupported")
        if caught:
            with pytest.warns(UserWarning, match=said):
                warnings.warn_explicit(caught[0].message, UserWarning, "here", 1)  # type: ignore[arg-type]
            assert "cudnn" not in implementations(device)
            for operation in (ops.conv2d, ops.conv2d_input_gradient, ops.conv2d_weight_gradient):
                del operation.implementations[device.kind]
    for one in found:
        np.testing.assert_array_equal(one, expected)


def test_the_environment_decides(installed: Any, standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_CUDNN", "0")
    with standin.xp.standin.launches.counted() as launches:
        convolved(get_backend("cuda"))
    assert cudnn.FORWARD not in launches
    monkeypatch.setitem(sys.modules, "cudnn", None)
    monkeypatch.setenv("GPUCNN_CUDNN", "1")
    with ExitStack() as stack:
        replace_backend(stack, "cuda:0", None)
        with pytest.raises(
            DeviceError, match=r"GPUCNN_CUDNN=1, but cuDNN cannot be used \(ModuleNotFoundError.*gpucnn\[cudnn\]"
        ):
            convolved(get_backend("cuda"))
    monkeypatch.delenv("GPUCNN_CUDNN")
    with ExitStack() as stack:
        replace_backend(stack, "cuda:0", None)
        convolved(get_backend("cuda"))


def test_the_doctor_says_whether_it_is_there(installed: Any, standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cuDNN" not in examine()["missing"]
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert examine()["missing"]["cuDNN"] == "pip install 'gpucnn[cudnn]' (convolutions in TF32 by cuDNN)"


# --- the real one ----------------------------------------------------------------------------------------------------

H100 = {
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
    "multiProcessorCount": 132, "smCountOrigin": 0, "warpSize": 32, "maxSharedMemoryPerBlock": 49152,
    "maxSharedMemoryPerBlockOptin": 232448, "oversizedSharedMemoryPerBlock": 0, "reservedSharedMemoryPerBlock": 1024,
    "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0,
    "isTccDriver": 0, "supportCoopLaunch": 1, "totalGlobalMem": 85017493504, "smClockRateKHz": 1980000,
    "memClockRateKHz": 2619000, "memoryBusWidth": 5120, "l2CacheSize": 52428800, "deviceName": "NVIDIA H100 80GB HBM3",
    "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0,
}  # fmt: skip
DRIVER = (
    "cuInit", "cuDriverGetVersion", "cuGetErrorString", "cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload",
    "cuTensorMapEncodeIm2col", "cuTensorMapEncodeTiled",
)  # fmt: skip
"""The functions of the driver that cuDNN's libraries are linked to."""
PLANS = """
import json, sys
import cudnn
from gpucnn.backend.cuda import cudnn as ours
from gpucnn.backend.geometry import Window

gpu = cudnn.create_device_properties(sys.argv[1])
for x, w, window in json.loads(sys.argv[2]):
    for kind in (ours.FORWARD, ours.INPUT_GRADIENT, ours.WEIGHT_GRADIENT):
        plan = ours.build(cudnn, kind, tuple(x), tuple(w), Window(*map(tuple, window)), device_property=gpu)
        print(kind, plan.workspace)
"""


def test_the_real_cudnn_has_plans_for_an_h100(tmp_path: Path) -> None:
    """Needs no GPU: it is described to cuDNN. Without a driver an empty one stands in for it, of which nothing is called."""
    pytest.importorskip("cudnn", reason="cuDNN is not installed (pip install 'gpucnn[cudnn]')")
    folders = [os.environ.get("LD_LIBRARY_PATH", "")]
    if subprocess.run(["sh", "-c", "ldconfig -p | grep -q libcuda.so.1"], check=False).returncode:
        source = "".join(f"int {name}(void) {{ return 100; }}\n" for name in DRIVER)
        library = str(tmp_path / "libcuda.so.1")
        command = ["gcc", "-x", "c", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, "-"]
        subprocess.run(command, input=source, text=True, check=True)
        folders.insert(0, str(tmp_path))
    large = ((256, 64, 32, 32), (64, 64, 3, 3), Window((3, 3), (1, 1), (1, 1, 1, 1)))
    lenet = ((64, 1, 28, 28), (6, 1, 5, 5), Window((5, 5), (1, 1), (2, 2, 2, 2)))
    cases = [(x, w, (window.kernel, window.stride, window.padding, window.dilation)) for x, w, window in (
        *CASES.values(), large, lenet
    )]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PLANS, json.dumps(H100), json.dumps(cases)], capture_output=True, text=True, check=False,
        env=os.environ | {"LD_LIBRARY_PATH": ":".join(filter(None, folders))}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 3 * len(cases)
