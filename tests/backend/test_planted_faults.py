"""What the stand-in for CuPy catches through gpucnn itself; a training step moves nothing between host and device."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from kernels_on_cpu import OutOfBounds
from standin.signatures import real_cupy

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor, models, nn, optim
from gpucnn.autograd import apply
from gpucnn.backend import Array, Backend
from gpucnn.backend.cuda import conv


def test_a_host_array_that_reaches_a_device_operation_fails(standin: Backend) -> None:
    def faulty(backend: Backend, a: Array, requires_grad: tuple[bool, ...]) -> Any:
        return a * np.full(a.shape, 2.0, np.float32), None

    x = np.ones((2, 3), np.float32)
    assert apply(faulty, gpucnn.tensor(x, device="cpu")).shape == (2, 3)  # NumPy does not notice
    with pytest.raises(TypeError, match="Unsupported type"):
        apply(faulty, gpucnn.tensor(x, device="cuda"))


def test_a_host_array_in_backward_fails(standin: Backend) -> None:
    def faulty(backend: Backend, a: Array, requires_grad: tuple[bool, ...]) -> Any:
        kept = np.ones(a.shape, np.float32)
        return a + 1, lambda dy: (dy * kept,)

    y = apply(faulty, gpucnn.tensor([1.0, 2.0], device="cuda", requires_grad=True))
    with pytest.raises(TypeError, match="Unsupported type"):
        y.sum().backward()


def test_a_host_array_wrapped_as_a_device_tensor_fails(standin: Backend) -> None:
    weight = Tensor(np.ones((4, 3), np.float32), standin)
    with pytest.raises((TypeError, AttributeError)):
        F.linear(gpucnn.tensor(np.ones((2, 3), np.float32), device="cuda"), weight)


@pytest.mark.parametrize("name", ["nditer", "lib.index_tricks", "char", "matrix"])
def test_a_layer_that_uses_a_name_that_cupy_lacks_fails(standin: Backend, name: str) -> None:
    class Faulty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            found: Any = x.backend.xp
            for part in name.split("."):
                found = getattr(found, part)
            return x

    with pytest.raises(AttributeError, match="missing in CuPy"):
        Faulty()(gpucnn.tensor([1.0], device="cuda"))


def test_memory_that_nobody_wrote_shows(standin: Backend) -> None:
    def faulty(backend: Backend, a: Array, requires_grad: tuple[bool, ...]) -> Any:
        return backend.xp.empty(a.shape, a.dtype), None

    assert np.isnan(apply(faulty, gpucnn.tensor([1.0], device="cuda")).numpy()).all()


# Faults of the code that launches kernels: each of these would go unnoticed, or crash somewhere else, on a GPU.


def small_convolution() -> Tensor:
    x = np.random.default_rng(0).standard_normal((5, 2, 9, 9)).astype(np.float32)
    return F.conv2d(gpucnn.tensor(x, device="cuda"), gpucnn.tensor(np.ones((3, 2, 3, 3), np.float32), device="cuda"))


def test_a_grid_that_is_too_small_leaves_memory_that_nobody_wrote(
    standin: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert np.isfinite(small_convolution().numpy()).all()
    monkeypatch.setitem(conv.TILES, 8, (256, 128))  # the kernel's tile has 128 pixels
    assert np.isnan(small_convolution().numpy()).any()


def test_a_block_with_too_few_threads_leaves_memory_that_nobody_wrote(
    standin: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(conv.TILES, 8, (128, 64))
    assert np.isnan(small_convolution().numpy()).any()


@pytest.mark.parametrize("threads", [257, 1025, 0])
def test_a_block_that_cannot_be_launched_fails(standin: Backend, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setitem(conv.TILES, 8, (128, threads))
    with pytest.raises(real_cupy().cuda.driver.CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        small_convolution()


def test_a_write_beyond_an_array_fails(standin: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = conv.sizes
    monkeypatch.setattr(conv, "sizes", lambda *shapes: (np.int32(6), *sizes(*shapes)[1:]))  # one image too many
    with pytest.raises(OutOfBounds, match="conv_forward_8: wrote before the start or beyond the end"):
        small_convolution()


def test_sizes_of_64_bits_fail(standin: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = conv.sizes
    monkeypatch.setattr(conv, "sizes", lambda *shapes: tuple(int(size) for size in sizes(*shapes)))
    with pytest.raises(TypeError, match="conv_forward_8: N: expected a NumPy int32, got int"):
        small_convolution()


LAUNCHES: dict[str, tuple[str, Any]] = {
    "a host array": ("x: expected a cupy.ndarray, got <class 'numpy.ndarray'>", lambda x, y: (x.get(), y, np.int64(4))),
    "an array of another dtype": ("x: expected an array of float32, got float64",
                                  lambda x, y: (x.astype("float64"), y, np.int64(4))),
    "a strided array": ("x: expected a C-ordered array", lambda x, y: (x[::2], y, np.int64(2))),
    "a number of 32 bits": ("count: expected a NumPy int64, got int32", lambda x, y: (x, y, np.int32(4))),
    "a number of Python's": ("count: expected a NumPy int64, got int", lambda x, y: (x, y, 4)),
    "too few arguments": ("expected 3 arguments, got 2", lambda x, y: (x, y)),
    "an array for a number": ("count: expected a NumPy int64", lambda x, y: (x, y, x)),
    "a grid that is no tuple": ("grid: expected a tuple", None),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAUNCHES)
def test_a_launch_with_wrong_arguments_fails(standin: Any, kind: str) -> None:
    words, make = LAUNCHES[kind]
    x = standin.asarray(np.ones(4, np.float32))
    arguments = (x, x.copy(), np.int64(4)) if make is None else make(x, x.copy())
    with pytest.raises(TypeError, match=f"relu: {re.escape(words)}"):
        standin.kernels("activation").launch("relu", 1 if make is None else (1,), (256,), *arguments)


def test_a_kernel_that_is_not_there_fails(standin: Any) -> None:
    with pytest.raises(real_cupy().cuda.driver.CUDADriverError, match="named symbol not found"):
        standin.kernels("activation").launch("banana", (1,), (1,))


@pytest.mark.parametrize("model", ["lenet", "lenet:activation=sigmoid,pooling=avg", "lenet:activation=tanh"])
@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.01, 0.9), optim.Adam])
def test_a_training_step_moves_nothing_but_the_loss_that_is_read(standin: Backend, model: str, make: Any) -> None:
    with gpucnn.use(standin):
        net = models.build(model)
        optimizer, loss_fn = make(net.parameters()), nn.CrossEntropyLoss()
        x = gpucnn.tensor(np.random.default_rng(0).standard_normal((4, 1, 28, 28)).astype(np.float32))
        y = gpucnn.tensor([1, 2, 3, 4])

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = loss_fn(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step()
        with standin.xp.standin.transfers.counted() as inside:
            loss = step()
        assert inside.total == 0, inside
        with standin.xp.standin.transfers.counted() as inside:
            loss.item()
        assert (inside.to_host, inside.to_device, inside.waits) == (1, 0, 0)


def test_evaluating_moves_nothing_but_the_answers(standin: Backend) -> None:
    with gpucnn.use(standin), gpucnn.no_grad():
        net = models.lenet().eval()
        x = gpucnn.tensor(np.zeros((4, 1, 28, 28), np.float32))
        with standin.xp.standin.transfers.counted() as inside:
            right = (net(x).argmax(1) == gpucnn.tensor([1, 2, 3, 4])).sum()
        assert (inside.to_device, inside.to_host) == (1, 0)  # the labels
        with standin.xp.standin.transfers.counted() as inside:
            int(right)
        assert inside.total == 1


def test_cpu_and_device_take_the_same_path(standin: Backend) -> None:
    def losses(device: str) -> list[float]:
        gpucnn.manual_seed(3)
        with gpucnn.use(device):
            net = models.lenet()
            optimizer = optim.Adam(net.parameters(), lr=1e-3)
            rng = np.random.default_rng(1)
            found = []
            for _ in range(4):
                x, y = rng.standard_normal((8, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 8)
                optimizer.zero_grad()
                loss = F.cross_entropy(net(gpucnn.tensor(x)), gpucnn.tensor(y))
                loss.backward()
                optimizer.step()
                found.append(loss.item())
        return found

    assert np.allclose(losses("cpu"), losses("cuda"), rtol=1e-4)
