"""Kernels shared among threads: the same numbers, every part once, errors raised, nobody waits for ever, no thread stays."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
from cases import convolution_calls, results_of
from hypothesis import given
from hypothesis import strategies as st

from gpucnn.backend import Window
from gpucnn.backend.cpu import CpuDevice, processes, workers
from gpucnn.backend.cpu.workers import Workers
from gpucnn.backend.geometry import bands, batches, join, overlap


def kernel_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "gpucnn kernel"}


def test_each_part_is_done_once_and_results_keep_their_order() -> None:
    assert Workers(3).run(lambda i: i * i, range(10)) == [i * i for i in range(10)]
    assert Workers(1).run(lambda i: i * i, range(3)) == [0, 1, 4]
    assert Workers(2).run(lambda i: i, []) == []


def test_parts_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)
    Workers(2).run(lambda _: meeting.wait(), range(2))


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_in_any_part_is_raised_when_all_are_done(bad: int) -> None:
    crew, done = Workers(2), []

    def work(i: int) -> None:
        if i == bad:
            raise ValueError("no")
        time.sleep(0.01)
        done.append(i)

    with pytest.raises(ValueError, match="no"):
        crew.run(work, range(2))
    assert done == [1 - bad]
    assert crew.run(lambda i: i, range(2)) == [0, 1], "and the threads go on"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers of signals on this system")
def test_an_interrupt_while_others_work_leaves_nothing_behind() -> None:
    crew, before = Workers(2), kernel_threads()

    def work(i: int) -> None:
        if i:
            time.sleep(0.3)

    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            crew.run(work, range(2))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    old = kernel_threads() - before
    assert crew.run(lambda i: i, range(2)) == [0, 1], "while the other part of the interrupted work goes on"
    for thread in old:
        thread.join(5)
        assert not thread.is_alive()
    assert crew.run(lambda i: i, range(2)) == [0, 1]


def test_where_no_thread_can_be_made_the_caller_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    crew = Workers(3)
    assert [crew.run(lambda i: i, range(3)) for _ in range(2)] == [[0, 1, 2]] * 2


def test_an_error_is_not_kept_alive_by_the_threads() -> None:
    class Held(np.ndarray[Any, Any]):
        """An array that can be watched."""

    crew, gone = Workers(2), []

    def work(i: int) -> None:
        held = np.empty(3).view(Held)
        if i:
            gone.append(weakref.ref(held))
            raise ValueError("no")

    gc.disable()
    try:
        with contextlib.suppress(ValueError):  # pytest.raises would keep it
            crew.run(work, range(2))
        assert gone[0]() is None
    finally:
        gc.enable()


def test_a_second_caller_does_its_own_work() -> None:
    crew, started, go_on = Workers(2), threading.Event(), threading.Event()

    def wait(i: int) -> None:
        started.set()
        go_on.wait(10)

    other = threading.Thread(target=crew.run, args=(wait, range(2)))
    other.start()
    started.wait(10)
    assert crew.run(lambda i: threading.current_thread().name, range(2)) == [threading.current_thread().name] * 2
    go_on.set()
    other.join()


def test_a_kernel_within_a_kernel_does_not_wait_for_itself() -> None:
    crew = Workers(2)
    assert crew.run(lambda i: crew.run(lambda j: 10 * i + j, range(2)), range(2)) == [[0, 1], [10, 11]]


def test_threads_end_with_their_workers() -> None:
    before = kernel_threads()
    crew = Workers(3)
    assert not kernel_threads() - before, "none is made before it is needed"
    crew.run(lambda i: i, range(3))
    made = kernel_threads() - before
    assert len(made) == 2
    del crew
    gc.collect()
    for thread in made:
        thread.join(5)
        assert not thread.is_alive()


def test_results_are_not_kept_alive_by_the_threads() -> None:
    crew, array = Workers(2), np.empty(10)
    views = crew.run(lambda i: array[i:], range(2))
    del views
    import sys

    assert sys.getrefcount(array) == 2


@given(
    H=st.integers(1, 12), kernel=st.integers(1, 4), stride=st.integers(1, 3), top=st.integers(0, 4),
    bottom=st.integers(0, 4), dilation=st.integers(1, 2), unit=st.integers(1, 2), count=st.integers(1, 4),
)  # fmt: skip
def test_bands_see_what_the_whole_sees(
    H: int, kernel: int, stride: int, top: int, bottom: int, dilation: int, unit: int, count: int
) -> None:
    window = Window((kernel, 1), (stride, 1), (top, bottom, 0, 0), (dilation, 1))
    if window.padded_size(H, 1)[0] < window.extent[0] or window.output_size(H, 1)[0] < unit:
        return
    rows = window.output_size(H, 1)[0] // unit
    padded = np.concatenate([np.zeros(top), np.arange(1.0, H + 1), np.zeros(bottom)])
    offsets = np.arange(kernel) * dilation
    plan = bands(window, H, rows, unit, count)
    assert [row for band in plan for row in range(band.rows.start, band.rows.stop)] == list(range(rows))
    for band in plan:
        image = np.arange(1.0, H + 1)[band.seen]
        above, below, *_ = band.window.padding
        part = np.concatenate([np.zeros(above), image, np.zeros(below)])
        steps = (band.rows.stop - band.rows.start) * unit
        assert band.window.output_size(len(image), 1)[0] >= steps
        for i in range(steps):
            mine, whole = i * stride + offsets, (band.rows.start * unit + i) * stride + offsets
            assert part[mine].tolist() == padded[whole].tolist()


def test_parts_that_overlap_are_added_and_gaps_are_zero() -> None:
    window = Window((1, 1), (3, 1))
    plan = bands(window, 8, 3, 1, 2)
    y = np.full((1, 1, 8, 1), np.nan)
    join([np.ones((1, 1, b.seen.stop - b.seen.start, 1)) for b in plan], plan, y)
    assert y.ravel().tolist() == [1, 0, 0, 1, 1, 1, 1, 0]
    plan = bands(Window((3, 1)), 6, 4, 1, 2)
    y = np.full((1, 1, 6, 1), np.nan)
    join([np.ones((1, 1, 4, 1))] * 2, plan, y)
    assert y.ravel().tolist() == [1, 1, 2, 2, 1, 1]


def test_images_are_cut_evenly_and_parts_of_them_need_no_joining() -> None:
    plan = batches(Window((3, 3)), 7, 9, 3, 3)
    assert [list(range(7))[part.images] for part in plan] == [[0, 1], [2, 3], [4, 5, 6]]
    assert {(part.rows.stop, part.seen.stop) for part in plan} == {(3, 9)}
    assert not overlap(plan)
    y = np.full((7, 1, 9, 1), 5.0)
    join([y[part.images] for part in plan], plan, y)
    assert (y == 5).all()


def test_shared_kernels_are_the_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LEAST_PART", 1)
    monkeypatch.setattr(processes, "SUPPORTED", False)
    rng, whole, shared = (
        np.random.default_rng(0),
        CpuDevice(threads=1, compiled=False),
        CpuDevice(threads=3, compiled=False),
    )
    for window, groups in (
        (Window((3, 3), (1, 1), (1, 1, 1, 1)), 1), (Window((3, 2), (2, 1), (2, 0, 1, 1), (1, 2)), 2), (Window((5, 5)), 1),
        (Window((2, 2), (1, 1), (4, 4, 4, 4)), 1), (Window((2, 2), (15, 1), (18, 0, 0, 0)), 1),
    ):  # fmt: skip
        for name, arguments in convolution_calls(whole, rng, window, groups, 4, np.float64):
            for ours, theirs in results_of((shared, whole), name, arguments):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12, err_msg=name)
    a, b = rng.standard_normal((7, 5)), rng.standard_normal((5, 3))
    np.testing.assert_allclose(shared.matmul(a, b), a @ b)


def test_the_blas_may_share_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    before = CpuDevice(compiled=False).blas.count
    assert before == 1
    monkeypatch.setenv("GPUCNN_BLAS_THREADS", "2")
    backend = CpuDevice(threads=4, compiled=False)
    assert (backend.workers.count, backend.blas.count) == (1, 2)
    monkeypatch.delenv("GPUCNN_BLAS_THREADS")
    backend = CpuDevice(threads=4, compiled=False)
    assert (backend.workers.count, backend.blas.count) == (4, 1)
