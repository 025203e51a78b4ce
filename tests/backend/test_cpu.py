"""The CPU's kernels: which ran, the same bits every time, from any thread, after a fork; memory given out once only."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.backend import Backend, Window, ops
from gpucnn.backend.cpu import CpuDevice, workspace
from gpucnn.backend.cpu.workspace import Workspace
from gpucnn.backend.native import library
from gpucnn.errors import ParameterError

FAST = (
    "conv2d_relu_max_pool2d", "conv2d_relu_max_pool2d_gradients", "conv2d", "conv2d_input_gradient",
    "conv2d_weight_gradient", "max_pool2d", "max_pool2d_gradient", "avg_pool2d", "avg_pool2d_gradient",
    "matmul", "linear", "relu", "relu_gradient", "gather", "sgd_update", "adam_update",
)  # fmt: skip


def digest(arrays: dict[str, Any]) -> str:
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def train(
    backend: Backend, model: str = "lenet", batch: int = 16, steps: int = 2, shape: tuple[int, int, int] = (1, 28, 28)
) -> str:
    """Return a digest of the weights after a few steps from fixed numbers."""
    with gpucnn.use(backend):
        net = models.build(model)
        rng = np.random.default_rng(7)
        net.load_state_dict({name: (rng.random(value.shape) - 0.5) / 4 for name, value in net.state_dict().items()})
        optimizer, loss_fn = optim.Adam(net.parameters(), lr=1e-3), nn.CrossEntropyLoss()
        for _ in range(steps):
            x, y = rng.standard_normal((batch, *shape)).astype(np.float32), rng.integers(0, 10, batch)
            optimizer.zero_grad()
            loss_fn(net(gpucnn.tensor(x)), gpucnn.tensor(y)).backward()
            optimizer.step()
        return digest(net.state_dict())


@pytest.fixture(params=["compiled", "NumPy"])
def kernels(request: pytest.FixtureRequest) -> Backend:
    """A CPU backend of three threads, with and without compiled kernels."""
    if request.param == "compiled" and library() is None:
        pytest.skip("no compiled kernels")
    return CpuDevice(threads=3, compiled=request.param == "compiled")


@pytest.mark.parametrize("model", ["lenet", "lenet:activation=sigmoid,pooling=avg", "lenet:activation=tanh"])
def test_lenet_takes_the_fast_kernels_for_everything(model: str) -> None:
    backend = CpuDevice(compiled=False)
    train(backend, model)
    fast = {name.rpartition(".")[0] for name in backend.ran if name.endswith(".fast")}
    slow = {name for name in backend.ran if name.endswith(".reference")}
    assert fast <= set(FAST)
    assert {name.rpartition(".")[0] for name in slow} & set(FAST) == set()
    assert "conv2d_relu_max_pool2d" in fast if model == "lenet" else "conv2d" in fast


def test_the_reference_is_taken_where_there_is_nothing_to_compute() -> None:
    backend = CpuDevice(compiled=False)
    with gpucnn.use(backend):
        nn.Conv2d(1, 2, 3)(gpucnn.tensor(np.zeros((0, 1, 5, 5), np.float32)))
    assert backend.ran["conv2d.reference"] == 1
    assert backend.ran["conv2d.fast"] == 0


@pytest.mark.bits
def test_the_same_bits_every_time(kernels: Backend) -> None:
    first = train(kernels, batch=64)
    assert {train(kernels, batch=64) for _ in range(2)} == {first}


@pytest.mark.bits
@pytest.mark.parametrize(("model", "shape"), [("lenet", (1, 28, 28)), ("resnet:blocks=1", (3, 32, 32))])
def test_the_same_bits_for_any_number_of_threads(kernels: Backend, model: str, shape: tuple[int, int, int]) -> None:
    other = CpuDevice(threads=1, compiled=kernels.kernels is not None)  # type: ignore[attr-defined]
    assert train(kernels, model, 64, 2, shape) == train(other, model, 64, 2, shape)


@pytest.mark.bits
def test_the_same_bits_from_several_threads_at_once(kernels: Backend) -> None:
    expected = train(kernels)
    found: list[str] = []
    workers = [threading.Thread(target=lambda: found.append(train(kernels))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert found == [expected] * 3


def in_a_fork(function: Callable[[], str]) -> str:
    """Return what ``function`` returns in a forked process; fails where that hangs or dies."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads
        child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            os.write(writable, function().encode())
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, "the forked process hung or died"
    return answer


@pytest.mark.bits
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_the_same_bits_after_a_fork(kernels: Backend) -> None:
    expected = train(kernels)
    assert in_a_fork(lambda: train(kernels)) == expected
    assert train(kernels) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_takes_memory() -> None:
    backend = CpuDevice(compiled=False)
    expected, held, done = train(backend), threading.Event(), threading.Event()

    def hold() -> None:
        with backend.workspace._lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    try:
        assert in_a_fork(lambda: train(backend)) == expected
    finally:
        done.set()
        thread.join()


def test_kernels_in_many_blocks_are_those_of_the_reference(cut_small: Backend) -> None:
    class Reference(Backend):
        xp = np

    rng, window, reference = np.random.default_rng(0), Window((3, 3), (2, 1), (1, 0, 2, 1), (1, 2)), Reference()
    x, w = rng.standard_normal((4, 4, 9, 11)), rng.standard_normal((6, 2, 3, 3))
    y = reference.conv2d(x, w, None, window, 2)
    dy = rng.standard_normal(y.shape)
    pool = Window((3, 2), (2, 2), (1, 1, 1, 0))
    pooled, place = reference.max_pool2d(x, pool)
    for name, arguments in (
        ("conv2d", (x, w, None, window, 2)),
        ("conv2d_input_gradient", (dy, w, x.shape, window, 2)),
        ("conv2d_weight_gradient", (x, dy, w.shape, window, 2)),
        ("max_pool2d", (x, pool)),
        ("max_pool2d_gradient", (pooled, place, x.shape, pool)),
        ("avg_pool2d", (x, pool, 6.0)),
        ("avg_pool2d_gradient", (pooled, x.shape, pool, 6.0)),
        ("relu", (x,)),
        ("relu_gradient", (x, x[::-1])),
    ):
        ours, theirs = getattr(cut_small, name)(*arguments), getattr(reference, name)(*arguments)
        for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (ours, theirs)), strict=True):
            assert np.allclose(a, b, rtol=1e-12, atol=1e-12), name
    assert not any(name.endswith(".reference") for name in cut_small.ran)


# Memory that is used again.

VIEWS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "itself": lambda a: a,
    "slice": lambda a: a[100:200],
    "reversed": lambda a: a[::-1],
    "reshaped": lambda a: a.reshape(2, -1),
    "transposed": lambda a: a.reshape(2, -1).T,
    "of another dtype": lambda a: a.view(np.uint8),
    "of a view of a view": lambda a: a.reshape(4, -1).T[5:].view(np.uint32)[2:],
    "memoryview": memoryview,
    "memoryview of a slice": lambda a: a[7:].data,
    "from a buffer": lambda a: np.frombuffer(memoryview(a), np.float32),
    "strided": lambda a: np.lib.stride_tricks.as_strided(a, (3, 3), (4, 4)),
    "sliding windows": lambda a: np.lib.stride_tricks.sliding_window_view(a, 5),
    "broadcast": lambda a: np.broadcast_to(a[:5], (3, 5)),
    "flat iterator": lambda a: a.flat,
    "in a list": lambda a: [a[:10]],
    "tensor": lambda a: gpucnn.tensor([1.0]).like(a[:10]).reshape(2, 5).detach(),
    "through DLPack": np.from_dlpack,
}  # fmt: skip


@pytest.mark.parametrize("kind", VIEWS)
def test_memory_is_not_given_out_while_a_view_lives(kind: str) -> None:
    workspace = Workspace()
    array = workspace.empty((50_000,), np.float32)
    address = array.__array_interface__["data"][0]
    view = VIEWS[kind](array)
    del array
    others = [workspace.empty((50_000,), np.float32) for _ in range(4)]
    assert address not in [other.__array_interface__["data"][0] for other in others]
    del view
    assert workspace.empty((50_000,), np.float32).__array_interface__["data"][0] == address


def test_pytorch_may_hold_the_memory_too() -> None:
    torch = pytest.importorskip("torch")
    workspace = Workspace()
    held = torch.from_numpy(workspace.empty((50_000,), np.float32)).reshape(5, -1)[1:]
    held[...] = 7
    workspace.empty((50_000,), np.float32)[...] = 1
    assert (held == 7).all()


@pytest.mark.bits
def test_results_stay_as_they_are_while_others_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "SMALLEST", 4)
    backend, rng, kept = CpuDevice(compiled=False), np.random.default_rng(0), []
    with gpucnn.use(backend):
        layers = (nn.Conv2d(2, 3, 3), nn.MaxPool2d(2, 1), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5))
        for _ in range(6):
            y = gpucnn.tensor(rng.standard_normal((3, 2, 9, 9)).astype(np.float32), requires_grad=True)
            for layer in layers:
                y = layer(y)
                view = y.detach()[..., ::-1]
                kept.append((view, view.numpy()))
            y.sum().backward()
    assert all(np.array_equal(view.numpy(), copy) for view, copy in kept)


def test_threads_that_share_a_workspace_get_memory_of_their_own() -> None:
    workspace, wrong = Workspace(), []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in range(300):
            array = workspace.empty((int(rng.integers(20_000, 40_000)),), np.float32)
            array[...] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_idle_memory_is_given_back_when_shapes_change() -> None:
    workspace = Workspace()
    for size in range(100_000, 4_000_000, 100_000):
        workspace.empty((size,), np.uint8)
    assert sum(buffer.nbytes for buffers in workspace._buffers.values() for buffer in buffers) < 20_000_000
    workspace.clear()
    assert not any(workspace._buffers.values())


@pytest.mark.slow
def test_scratch_memory_of_a_large_convolution_stays_within_the_limit() -> None:
    backend = CpuDevice(compiled=False)
    backend.workspace.limit = 16 << 20
    rng, window = np.random.default_rng(0), Window((3, 3), (1, 1), (1, 1, 1, 1))
    x = rng.standard_normal((1, 64, 1024, 1024), np.float32)
    w = rng.standard_normal((64, 64, 3, 3), np.float32)
    for kernel, arguments in (
        (backend.conv2d, (x, w, None, window)),
        (backend.conv2d_input_gradient, (x, w, x.shape, window)),
        (backend.conv2d_weight_gradient, (x, x, w.shape, window)),
    ):
        tracemalloc.start()
        result = kernel(*arguments)
        kept = sum(part.nbytes for part in (result if isinstance(result, tuple) else (result,)))
        scratch = tracemalloc.get_traced_memory()[1] - kept
        tracemalloc.stop()
        assert scratch < 24 << 20, kernel.__name__  # the limit, a block's columns, and what rounding adds
        backend.workspace.clear()


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Workspace().limit == 64 << 20
    monkeypatch.setenv("GPUCNN_WORKSPACE", "3")
    assert Workspace().limit == 3 << 20
    for wrong in ("0", "-1", "many", "1.5"):
        monkeypatch.setenv("GPUCNN_WORKSPACE", wrong)
        with pytest.raises(ParameterError, match="GPUCNN_WORKSPACE"):
            Workspace()


@pytest.mark.parametrize("layout", ["images first", "batch-last"])
def test_fused_convolution_above_the_limit_is_done_in_parts(layout: str) -> None:
    backend, rng = CpuDevice(compiled=False), np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 12, 12), np.float32)
    x = x if layout == "images first" else np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    w, b = rng.standard_normal((4, 2, 3, 3), np.float32), rng.standard_normal(4).astype(np.float32)
    wanted, _ = backend.conv2d_relu_max_pool2d(x, w, b, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1)
    backend.workspace.limit = 1000
    backend.ran.clear()
    y, _ = backend.conv2d_relu_max_pool2d(x, w, b, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    assert "conv2d_relu_max_pool2d.fast" not in backend.ran
    assert "conv2d.fast" in backend.ran


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("update", ["adam", "sgd"])
def test_moments_of_what_gets_no_gradient_end_at_zero_not_among_the_subnormals(update: str, dtype: Any) -> None:
    """Cores take a hundred times longer for subnormal numbers, and 0.9 times the smallest of them is that again."""
    backend, rng = CpuDevice(threads=1, compiled=False), np.random.default_rng(0)
    p, first = rng.standard_normal(50).astype(dtype), rng.standard_normal(50).astype(dtype)
    m, v, nothing, lowest = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p), np.finfo(dtype).tiny
    theirs = [array.astype(np.float64) for array in (p, m, v)]
    numbers: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.0}
    seen = set()
    for step in range(1, 9000):
        gradient = first if step == 1 else nothing
        if update == "adam":
            numbers |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": step}
            backend.adam_update(p, gradient, m, v, **numbers)
            ops.adam_update.reference(backend, theirs[0], gradient.astype(np.float64), *theirs[1:], **numbers)
        else:
            numbers |= {"momentum": 0.9, "nesterov": False}
            backend.sgd_update(p, gradient, m, **numbers)
            ops.sgd_update.reference(backend, theirs[0], gradient.astype(np.float64), theirs[1], **numbers)
        smallest = np.abs(m).min()
        assert smallest == 0 or smallest >= lowest
        seen.add(bool(smallest))
    assert seen == {True, False}
    np.testing.assert_allclose(p, theirs[0], rtol=1e-5)
