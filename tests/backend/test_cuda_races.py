"""Every kernel, under a detector of races, of barriers that only some threads reach, and of misaligned access."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import kernels_on_cpu
import numpy as np
import pytest
from kernels_on_cpu import Race, build, run_guarded

from gpucnn.backend.cuda import launch, proof
from gpucnn.backend.cuda.device import CudaDevice


@pytest.mark.parametrize("precision", ["float32", pytest.param("tf32", marks=pytest.mark.slow)])
def test_no_kernel_has_a_race(standin: Any, precision: str) -> None:
    with kernels_on_cpu.checking_races():
        device = CudaDevice()
        with standin.xp.standin.launches.counted() as launches, device.tf32(precision == "tf32"):
            for _, check in proof._all_checks(device, 0, proof.CLOSE_TF32):
                assert check() is None
    text = re.sub(r"//.*", "", "".join(map(launch.source, launch.FAMILIES)))
    names = set(re.findall(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(", text)) - {"NAME"}
    assert len(names) > 20
    assert names <= set(launches)


def test_a_barrier_left_out_of_a_kernel_is_found(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = launch.source("conv")
    after = "Shape::multiply(As, Bs, sum);\n        __syncthreads();"
    assert text.count(after) > 1
    faulty = text.replace(after, after.partition("\n")[0])
    whole = launch.source
    monkeypatch.setattr(launch, "source", lambda family: faulty if family == "conv" else whole(family))
    with kernels_on_cpu.checking_races():
        device = CudaDevice()
        checks = [check for family, check in proof._all_checks(device, 0, proof.CLOSE) if family == "conv"]
        with pytest.raises(Race, match=r"conv_forward_8: a (read after a write|write after a read) in shared memory"):
            checks[0]()


# The detector finds what is planted. Each fault gives the right result forwards and backwards.

SHIFT = """
extern "C" __global__ void kernel(const float* x, float* y, int n) {
    __shared__ float tile[64];
    const int i = threadIdx.x;
    tile[i] = x[i];
    BARRIER
    y[i] = tile[(i + 1) % 64];
}
"""
SAME_VALUE = """
extern "C" __global__ void kernel(const float* x, float* y, int n) { y[0] = x[0]; if (n < 0) __syncthreads(); }
"""
DIVERGENT = """
extern "C" __global__ void kernel(const float* x, float* y, int n) {
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
"""
ENDED = """
extern "C" __global__ void kernel(const float* x, float* y, int n) {
    if (threadIdx.x >= 48) return;
    __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
"""
HALF_WARP = """
extern "C" __global__ void kernel(const float* x, float* y, int n) {
    if (threadIdx.x >= 16) return;
    y[threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], 0);
}
"""
MISALIGNED = """
extern "C" __global__ void kernel(const float* x, float* y, int n) {
    if (threadIdx.x == 0) *(double*)(y + 1) = 0;
}
"""
FAULTS = {
    "no barrier": (SHIFT.replace("BARRIER", "if (n < 0) __syncthreads();"), "in shared memory"),
    "one element, one value": (SAME_VALUE, "two writes in global memory"),
    "two barriers": (DIVERGENT, "threads wait at two places"),
    "threads that left": (ENDED, "threads ended before a barrier"),
    "half a warp": (HALF_WARP, "part of a warp exchanges"),
    "misaligned": (MISALIGNED, "misaligned access"),
}


def run(source: str, checked: Callable[[], Any]) -> Any:
    try:
        with checked():
            kernel = build(source)["kernel"]
    except kernels_on_cpu.NoCompiler as error:
        pytest.skip(str(error))
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    run_guarded(kernel, (1, 1, 1), (64, 1, 1), [x, y, np.int32(64)])
    return y


@pytest.mark.parametrize("fault", FAULTS)
def test_the_detector_finds(fault: str) -> None:
    source, message = FAULTS[fault]
    with pytest.raises(Race, match=message):
        run(source, kernels_on_cpu.checking_races)


def test_the_detector_lets_the_barrier_pass() -> None:
    assert run(SHIFT.replace("BARRIER", "__syncthreads();"), kernels_on_cpu.checking_races)[:3].tolist() == [1, 2, 3]
