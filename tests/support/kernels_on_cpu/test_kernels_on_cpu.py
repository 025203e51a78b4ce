"""The shim that runs CUDA C++ on the CPU: it computes what CUDA means, and a kernel that does wrong is caught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kernels_on_cpu
from kernels_on_cpu import Kernel, OutOfBounds, Race, build, run_guarded

try:
    kernels_on_cpu.compiler()
except kernels_on_cpu.NoCompiler as error:
    pytest.skip(str(error), allow_module_level=True)

SOURCE = r"""
#define TWICE(T) T first, T second
__device__ float shared_total(const float* values, int count) {
    float sum = 0;
    for (int i = 0; i < count; i++) sum += values[i];
    return sum;
}
__device__ void wait() { __syncthreads(); }

extern "C" __global__ void fill(float* y, float value, long long count) {
    for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) y[i] = value;
}
extern "C" __global__ void write_at(float* y, int place) { y[place] = 1; }
extern "C" __global__ void copy(const float* x, float* y, int count) { for (int i = 0; i < count; i++) y[i] = x[i]; }
extern "C" __global__ void coordinates(int* y) {
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    y[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
extern "C" __global__ void __launch_bounds__(64) static_sum(const float* x, float* y) {
    __shared__ float values[64];
    values[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    wait();  // a barrier behind a function
    if (threadIdx.x == 0) y[blockIdx.x] = shared_total(values, 64);
}
extern "C" __global__ void unwritten_static(float* y) {
    __shared__ float values[4];
    y[blockIdx.x] = values[3];
    __syncthreads();
    values[3] = 1;
}
extern "C" __global__ void dynamic_reverse(const float* x, float* y) {
    extern __shared__ float values[];
    values[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void unwritten_dynamic(float* y) {
    extern __shared__ float values[];
    y[blockIdx.x] = values[0];
    values[0] = 1;
}
extern "C" __global__ void vectors(const float* x, float* y) {
    const float4 v = *(const float4*)(x + 4 * threadIdx.x);
    const float2 sums = make_float2(v.x + v.y, v.z + v.w);
    *(float2*)(y + 2 * threadIdx.x) = sums;
}
extern "C" __global__ void to_half(const float* x, __half* y, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) y[i] = __float2half(x[i]);
}
extern "C" __global__ void from_half(const __half* x, float* y, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) y[i] = __half2float(x[i]);
}
extern "C" __global__ void no_barrier(const float* x, float* y) {
    __shared__ float values[32];
    values[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = threadIdx.x ? values[threadIdx.x - 1] : 0;
    __syncthreads();
}
extern "C" __global__ void two_writers(float* y) { y[0] = threadIdx.x; }
extern "C" __global__ void blocks_in_order(float* y) { if (threadIdx.x == 0) y[blockIdx.x + 1] = y[blockIdx.x] + 1; }
extern "C" __global__ void lanes(int* sums, int* neighbours) {
    int value = threadIdx.x;
    neighbours[threadIdx.x] = __shfl_down_sync(~0u, value, 1);
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    sums[threadIdx.x] = value;
}
extern "C" __global__ void many(unsigned char* a, bool* b, double c, unsigned long long d, TWICE(int)) {
    *a = first + second;
}
"""


@pytest.fixture(scope="module")
def kernels() -> dict[str, Kernel]:
    return build(SOURCE)


def run(kernel: Kernel, *arguments: Any, grid: Any = (1, 1, 1), block: Any = (1, 1, 1), shared: int = 0) -> None:
    run_guarded(kernel, grid, block, arguments, shared)


def test_signatures_are_read_after_the_preprocessor(kernels: dict[str, Kernel]) -> None:
    many = kernels["many"]
    assert [str(one.dtype) for one in many.parameters] == ["uint8", "bool", "float64", "uint64", "int32", "int32"]
    assert [one.is_pointer for one in many.parameters] == [True, True, False, False, False, False]
    assert [one.is_const for one in kernels["static_sum"].parameters] == [True, False]
    assert (kernels["static_sum"].most_threads, many.most_threads) == (64, 1024)


def test_blocks_and_threads_have_their_coordinates(kernels: dict[str, Kernel]) -> None:
    y = np.zeros((12, 30), np.int32)
    run(kernels["coordinates"], y, grid=(2, 3, 2), block=(5, 3, 2))
    assert np.array_equal(y, np.arange(12)[:, None] * 1000 + np.arange(30))


def test_shared_memory_and_barriers(kernels: dict[str, Kernel]) -> None:
    x, y = np.random.default_rng(0).random((3, 64), np.float32), np.zeros(3, np.float32)
    run(kernels["static_sum"], x, y, grid=(3, 1, 1), block=(64, 1, 1))
    assert np.allclose(y, x.sum(1))
    back = np.zeros(64, np.float32)
    run(kernels["dynamic_reverse"], x[0], back, block=(64, 1, 1), shared=256)
    assert np.array_equal(back, x[0, ::-1])


@pytest.mark.parametrize("name", ["unwritten_static", "unwritten_dynamic"])
def test_shared_memory_holds_nan_when_a_block_starts(kernels: dict[str, Kernel], name: str) -> None:
    y = np.zeros(3, np.float32)
    run(kernels[name], y, grid=(3, 1, 1), shared=16)
    assert np.isnan(y).all()


def test_shuffles_within_a_warp(kernels: dict[str, Kernel]) -> None:
    sums, neighbours = np.zeros(64, np.int32), np.zeros(64, np.int32)
    run(kernels["lanes"], sums, neighbours, block=(64, 1, 1))
    assert sums.tolist() == [sum(range(32))] * 32 + [sum(range(32, 64))] * 32
    assert neighbours.tolist() == [*range(1, 32), 31, *range(33, 64), 63]


def test_vector_types(kernels: dict[str, Kernel]) -> None:
    x, y = np.arange(32, dtype=np.float32), np.zeros((8, 2), np.float32)
    run(kernels["vectors"], x, y, block=(8, 1, 1))
    assert np.array_equal(y, x.reshape(8, 2, 2).sum(2))


def test_half_is_numpys_half_for_every_value() -> None:
    kernels = build(SOURCE)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    wide = np.zeros(2**16, np.float32)
    run(kernels["from_half"], every, wide, np.int32(wide.size), block=(32, 1, 1))
    np.testing.assert_array_equal(wide, every.astype(np.float32))
    rng = np.random.default_rng(0)
    finite = wide[np.isfinite(wide)]
    between = (finite[1:] + finite[:-1]) / 2  # the ties
    spread = (rng.standard_normal(5000) * 10.0 ** rng.integers(-9, 6, 5000)).astype(np.float32)
    values = np.concatenate([wide, between, spread])
    back = np.zeros(values.size, np.float16)
    run(kernels["to_half"], values, back, np.int32(values.size), block=(32, 1, 1))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(back, values.astype(np.float16))


# What must fail.


@pytest.mark.parametrize("place", [-1, 8, 15, -16])
def test_a_write_beside_an_array_is_caught(kernels: dict[str, Kernel], place: int) -> None:
    with pytest.raises(OutOfBounds, match="write_at"):
        run(kernels["write_at"], np.zeros(8, np.float32), np.int32(place))


def test_a_write_of_what_was_wrongly_read_is_caught(kernels: dict[str, Kernel]) -> None:
    with pytest.raises(OutOfBounds, match="copy: "):
        run(kernels["copy"], np.zeros(8, np.float32), np.zeros(8, np.float32), np.int32(9))


@pytest.mark.parametrize("place", [-1, 4])
def test_a_write_beside_a_slice_of_an_array_is_caught(kernels: dict[str, Kernel], place: int) -> None:
    whole = np.zeros(12, np.float32)
    with pytest.raises(OutOfBounds, match="inside the memory"):
        run(kernels["write_at"], whole[4:8], np.int32(place))
    assert not whole.any()
    run(kernels["write_at"], whole[4:8], np.int32(3))
    assert whole.nonzero()[0].tolist() == [7]


@pytest.mark.parametrize("name", ["no_barrier", "two_writers", "blocks_in_order"])
def test_a_result_that_depends_on_the_order_of_threads_is_caught(kernels: dict[str, Kernel], name: str) -> None:
    arrays = [np.ones(32, np.float32)] * (name == "no_barrier") + [np.zeros(32, np.float32)]
    with pytest.raises(Race, match=f"{name}: backwards"):
        run(kernels[name], *arrays, grid=(3 if name == "blocks_in_order" else 1, 1, 1), block=(32, 1, 1))


def test_too_little_dynamic_shared_memory_is_caught(kernels: dict[str, Kernel]) -> None:
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    with pytest.raises(RuntimeError, match="beyond its dynamic shared memory"):
        run(kernels["dynamic_reverse"], x, y, block=(64, 1, 1), shared=128)
    with pytest.raises(RuntimeError, match="than a block may have"):
        run(kernels["dynamic_reverse"], x, y, block=(64, 1, 1), shared=1 << 20)


WRONG: dict[str, tuple[Any, ...]] = {
    "an array of another dtype": (np.zeros(4), np.float32(1), np.int64(4)),
    "an array that is not C-ordered": (np.zeros(8, np.float32)[::2], np.float32(1), np.int64(4)),
    "a scalar of 64 bits": (np.zeros(4, np.float32), np.float64(1), np.int64(4)),
    "a scalar of 32 bits": (np.zeros(4, np.float32), np.float32(1), np.int32(4)),
    "a number of Python's": (np.zeros(4, np.float32), 1.0, np.int64(4)),
    "a scalar for an array": (np.float32(0), np.float32(1), np.int64(4)),
    "too few arguments": (np.zeros(4, np.float32), np.float32(1)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_argument_of_the_wrong_kind_is_caught(kernels: dict[str, Kernel], kind: str) -> None:
    with pytest.raises(TypeError, match="fill: "):
        run(kernels["fill"], *WRONG[kind])


def test_what_does_not_compile_says_why() -> None:
    with pytest.raises(RuntimeError, match="banana"):
        build('extern "C" __global__ void f(float* y) { banana(); }')
