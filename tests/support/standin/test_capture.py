"""Streams that capture: what is recorded, what a launch of the graph does, and what is refused."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="the stand-in takes names and signatures from the real CuPy (no GPU needed)")

from . import make_cupy
from .signatures import real_cupy

xp: Any = make_cupy()
CudaError = real_cupy().cuda.runtime.CUDARuntimeError


@pytest.fixture
def stream() -> Iterator[Any]:
    """A capturing stream, whose memory comes from a pool of its own."""
    stream = xp.cuda.Stream(non_blocking=True)
    with xp.cuda.using_allocator(xp.cuda.MemoryPool().malloc), stream:
        stream.begin_capture()
        try:
            yield stream
        finally:
            if stream.is_capturing():
                with contextlib.suppress(CudaError):
                    stream.end_capture()


X = np.arange(6, dtype=np.float32).reshape(2, 3)
RECORDED: dict[str, Callable[[Any], Any]] = {
    "element by element": lambda x: xp.exp(x) + 1,
    "comparison and choice": lambda x: xp.where(x > 2, x, 0),
    "reduction": lambda x: x.sum(1),
    "copy": lambda x: x.copy(),
    "another dtype": lambda x: x.astype(np.float64),
    "integers as an index": lambda x: x[xp.argmax(x, 0)],
    "concatenation": lambda x: xp.concatenate([x, x]),
    "views": lambda x: xp.broadcast_to(x.T.reshape(3, 2)[::-1], (2, 3, 2)) * 2,
    "zeros and what is added": lambda x: xp.zeros_like(x) + x,
}


@pytest.mark.parametrize("kind", RECORDED)
def test_a_graph_computes_what_its_inputs_hold_when_it_is_launched(kind: str) -> None:
    given = xp.asarray(X)
    stream = xp.cuda.Stream(non_blocking=True)
    with xp.cuda.using_allocator(xp.cuda.MemoryPool().malloc), stream:
        stream.begin_capture()
        try:
            result = RECORDED[kind](given)
        finally:
            graph = stream.end_capture()
    for host in (X, X[::-1] * 3 - 4):
        given.set(np.ascontiguousarray(host))
        graph.launch()
        np.testing.assert_array_equal(result.get(), RECORDED[kind](xp.asarray(host)).get())


def test_changes_in_place_wait_for_the_launch(stream: Any) -> None:
    a, b = xp.empty(3, np.float32), xp.empty(3, np.float32)
    a.fill(2)
    b[...] = a
    b[1:] += 5
    xp.multiply(a, b, out=a)
    xp.copyto(b, a, where=a > 5)
    graph = stream.end_capture()
    assert np.isnan(a.get()).all()
    assert np.isnan(b.get()).all()
    assert len(graph) == 7
    graph.launch()
    assert a.get().tolist() == [4, 14, 14]
    assert b.get().tolist() == [2, 14, 14]


REFUSED: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "get": (RuntimeError, lambda x: x.get()),
    "item": (RuntimeError, lambda x: x.sum().item()),
    "if": (RuntimeError, lambda x: bool(x.sum())),
    "a mask": (RuntimeError, lambda x: x[x > 0]),
    "host data": (RuntimeError, lambda x: xp.asarray(np.ones(3))),
    "a host index": (RuntimeError, lambda x: x[np.array([0])]),
    "waiting for a stream": (CudaError, lambda x: xp.cuda.get_current_stream().synchronize()),
    "waiting for the device": (CudaError, lambda x: xp.cuda.Device(0).synchronize()),
    "cuBLAS": (NotImplementedError, lambda x: x @ x.T),
    "cuRAND": (NotImplementedError, lambda x: xp.random.default_rng(0).random(3)),
    "another capture": (CudaError, lambda x: xp.cuda.get_current_stream().begin_capture()),
    "loading a kernel": (CudaError, lambda x: xp.RawModule(code="").get_function("f")),
    "memory of others": (AssertionError, lambda x: _with_default_pool()),
}


def _with_default_pool() -> Any:
    with xp.cuda.using_allocator(None):
        return xp.empty(3)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_capturing_stream_refuses(stream: Any, kind: str) -> None:
    error, work = REFUSED[kind]
    x = xp.ones((2, 3), np.float32)
    with pytest.raises(error):
        work(x)
    if error is RuntimeError:  # CuPy asks before it calls CUDA, so the capture goes on
        stream.end_capture()
    elif kind != "another capture":
        with pytest.raises(CudaError, match="Invalidated"):
            stream.end_capture()


def test_the_null_stream_cannot_capture_and_an_end_needs_a_beginning() -> None:
    with pytest.raises(CudaError):
        xp.cuda.Stream.null.begin_capture()
    with pytest.raises(CudaError):
        xp.cuda.Stream(non_blocking=True).end_capture()


def test_what_was_refused_is_allowed_again_afterwards() -> None:
    stream = xp.cuda.Stream(non_blocking=True)
    with stream, xp.cuda.using_allocator(xp.cuda.MemoryPool().malloc):
        stream.begin_capture()
        stream.end_capture()
        assert (xp.ones(2) @ xp.ones(2)).get() == 2
