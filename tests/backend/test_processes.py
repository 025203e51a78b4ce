"""Parts of kernels in worker processes: the same bits wherever they are done, and no harm from a process that is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import convolution_calls, results_of

from gpucnn.backend import Window
from gpucnn.backend.cpu import CpuDevice, processes
from gpucnn.backend.cpu.processes import Call, Processes

pytestmark = pytest.mark.skipif(not processes.SUPPORTED, reason="worker processes are for Linux")

KERNELS = """
import os
import time
import numpy as np

def who(backend, window, x, y, seconds=0.0):
    time.sleep(seconds)
    y[...] = os.getpid()

def doubled(backend, window, x, y):
    y[...] = 2 * x

def fails_elsewhere(backend, window, x, y, owner):
    if os.getpid() != owner:
        raise MemoryError("no room")
    y[...] = x

def fails(backend, window, x, y):
    raise ValueError("no")

def slow_elsewhere(backend, window, x, y, owner):
    time.sleep(0.05 if os.getpid() != owner else 0.0)
    y[...] = os.getpid()
"""


@pytest.fixture(autouse=True)
def without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes share even parts so small, or on cores so busy, that it does not pay."""
    monkeypatch.setattr(processes, "JUDGED", 10**9)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Kernels in a module that a worker process can import."""
    (tmp_path / "kernels_of_a_test.py").write_text(KERNELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(processes, "FIRST_CALLS", 0)
    import kernels_of_a_test  # type: ignore[import-not-found]

    yield kernels_of_a_test
    del sys.modules["kernels_of_a_test"]


def hired(count: int = 2) -> Processes:
    """Return processes that are ready."""
    crew = Processes(count)
    assert len(crew.wait()) == count - 1, "no process got ready"
    return crew


def run(crew: Processes, kernel: Any, parts: int = 2, *options: Any) -> list[float]:
    """Return what each part of a kernel wrote, given its number."""
    x, y = np.arange(float(parts)).reshape(parts, 1), np.full((parts, 1), -1.0)
    calls = [Call(kernel, Window((1, 1)), (x[i],), (y[i],), options) for i in range(parts)]
    crew.run(CpuDevice(threads=1, compiled=False), calls, 1 << 20)
    found: list[float] = y[:, 0].tolist()
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < until, "it goes on living"
        time.sleep(0.01)


def test_every_part_is_done_in_a_process_of_its_own(kernels: ModuleType) -> None:
    crew = hired(3)
    pids = run(crew, kernels.who, 3)
    assert pids[0] == os.getpid()
    assert len(set(pids)) == 3
    assert run(crew, kernels.who, 3) == pids, "a call that is known there"
    assert run(crew, kernels.who, 5)[3:] == [os.getpid()] * 2, "what is left over is the caller's"


def test_the_first_kernels_of_a_program_start_no_process(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_CALLS", 2)
    crew = Processes(2)
    for _ in range(2):
        assert run(crew, kernels.who) == [os.getpid()] * 2
    assert not crew._crew
    run(crew, kernels.who)
    assert crew._crew


@pytest.mark.parametrize("order", ["C", "F", "innermost", "strided"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_arrays_of_every_order_and_dtype_are_carried(kernels: ModuleType, order: str, dtype: str) -> None:
    crew, rng = hired(), np.random.default_rng(0)

    def made() -> Any:
        whole = rng.integers(0, 100, (4, 3, 5, 6)).astype(dtype)
        if order == "F":
            return np.asfortranarray(whole)
        if order == "innermost":
            return np.ascontiguousarray(whole.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
        return whole[:, :, ::2, ::-1] if order == "strided" else whole

    x, y = made(), made()
    calls = [Call(kernels.doubled, Window((1, 1)), (x[i : i + 2],), (y[i : i + 2],)) for i in (0, 2)]
    crew.run(CpuDevice(threads=1, compiled=False), calls, 1 << 20)
    assert np.array_equal(y, 2 * x)


def test_memory_grows_and_what_is_known_is_bounded(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "KNOWN", 3)
    crew = hired()
    for size in [*range(1, 9), 100_000, 5, 400_000, *range(1, 9)]:
        x, y = np.arange(2.0 * size).reshape(2, size), np.zeros((2, size))
        calls = [Call(kernels.doubled, Window((1, 1)), (x[i],), (y[i],)) for i in (0, 1)]
        crew.run(CpuDevice(threads=1, compiled=False), calls, 1 << 20)
        assert np.array_equal(y, 2 * x), size
    (process,) = crew._crew
    assert len(process._known) <= 3


def test_a_part_that_fails_elsewhere_is_done_here(kernels: ModuleType) -> None:
    assert run(hired(), kernels.fails_elsewhere, 2, os.getpid()) == [0, 1]


def test_what_fails_everywhere_is_raised(kernels: ModuleType) -> None:
    crew = hired()
    with pytest.raises(ValueError, match="no"):
        run(crew, kernels.fails)
    assert run(crew, kernels.doubled) == [0, 2]


def test_a_process_that_is_killed_is_missed_by_nobody(kernels: ModuleType) -> None:
    crew = hired()
    for losses in range(1, processes.LOSSES + 1):
        (process,) = crew._crew
        os.kill(process.number, signal.SIGKILL)
        assert run(crew, kernels.doubled) == [0, 2]
        assert crew._losses == losses
        if losses < processes.LOSSES:
            crew.wait()
    assert run(crew, kernels.who) == [os.getpid()] * 2
    assert not crew._crew, "nor is another started"


def test_parts_are_as_many_as_pay_and_processes_as_many_as_there_are_parts(kernels: ModuleType) -> None:
    crew = Processes(64)
    assert crew.count == processes.MOST
    unit = processes.HANDING_OVER
    assert [crew.parts(work) for work in (0, 3.9 * unit, 4 * unit, 9 * unit, 1e6 * unit)] == [
        1,
        1,
        2,
        3,
        processes.MOST,
    ]
    run(crew, kernels.who, 3)
    assert len(crew._crew) == 2
    assert crew.takes(processes.LARGEST_PART * processes.MOST)
    assert not crew.takes(processes.LARGEST_PART * processes.MOST + 1)
    assert not Processes(1).takes(0)


def test_where_none_can_be_started_the_caller_does_all(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = len(os.listdir("/proc/self/fd"))
    crew = Processes(2)
    assert run(crew, kernels.who) == run(crew, kernels.who) == [os.getpid()] * 2
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("where", ["in its own part", "while it waits"])
def test_an_interrupt_leaves_nothing_half_done(kernels: ModuleType, where: str) -> None:
    crew = hired()
    (process,) = crew._crew
    mine, theirs = (0.5, 0.8) if where == "in its own part" else (0.0, 0.8)
    x, y = np.zeros((2, 1)), np.zeros((2, 1))
    calls = [
        Call(kernels.who, Window((1, 1)), (x[i],), (y[i],), (seconds,)) for i, seconds in enumerate((mine, theirs))
    ]
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            crew.run(CpuDevice(threads=1, compiled=False), calls, 1 << 20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert process not in crew._crew, "it may still write to the memory"
    assert run(crew, kernels.doubled) == [0, 2]
    wait_until_gone(process.number)
    crew.wait()
    assert run(crew, kernels.doubled) == [0, 2]


def test_the_answer_to_an_interrupted_call_is_not_taken_for_that_of_the_next(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew, start = hired(), processes.Process.start

    def interrupted(*given: Any) -> None:
        start(*given)
        raise KeyboardInterrupt  # a signal that came while the message was sent

    def calls(added: float) -> list[Call]:
        return [Call(kernels.doubled, Window((1, 1)), (np.full(1, i + added),), (np.zeros(1),)) for i in (0, 1)]

    with monkeypatch.context() as patched:
        patched.setattr(processes.Process, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            crew.run(CpuDevice(threads=1, compiled=False), calls(1), 1 << 20)
    later = calls(5)
    crew.run(CpuDevice(threads=1, compiled=False), later, 1 << 20)
    assert [call.written[0].item() for call in later] == [10, 12]  # type: ignore[union-attr]


def test_only_the_answer_to_the_last_call_counts(kernels: ModuleType) -> None:
    crew = hired()
    (process,) = crew._crew
    call = Call(kernels.doubled, Window((1, 1)), (np.ones(1),), (np.zeros(1),))
    for _ in range(2):
        process.start(call, 1 << 20)
    with pytest.raises(processes.Lost):
        process.finish(call)


def test_a_second_caller_does_its_own_work(kernels: ModuleType) -> None:
    crew, found = hired(), []
    first = threading.Thread(target=lambda: found.append(run(crew, kernels.who, 2, 0.5)))
    first.start()
    time.sleep(0.1)
    assert run(crew, kernels.who) == [os.getpid()] * 2
    first.join()
    assert len(set(found[0])) == 2


def test_processes_rest_where_the_cores_have_other_work(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("JUDGED", 3), ("REST", 50.0), ("LONGEST_REST", 150.0)):
        monkeypatch.setattr(processes, name, value)
    crew = hired()

    def run_three(kernel: Any, option: Any) -> list[list[float]]:
        return [run(crew, kernel, 2, option) for _ in range(3)]

    run_three(kernels.slow_elsewhere, os.getpid())  # these do not count: a process is slow at first
    for longest in (100.0, 150.0):
        assert all(len(set(pids)) == 2 for pids in run_three(kernels.slow_elsewhere, os.getpid()))
        assert run(crew, kernels.who) == [os.getpid()] * 2
        assert longest - 10 < crew._rest_until - time.monotonic() <= longest
        crew._rest_until = 0.0
    for _ in range(2):
        assert all(len(set(pids)) == 2 for pids in run_three(kernels.who, 0.01)), "equal parts are no reason to rest"
    assert crew._rest == 50


def test_processes_end_with_their_owner(kernels: ModuleType) -> None:
    crew = hired(3)
    pids = [process.number for process in crew._crew]
    before = len(os.listdir("/proc/self/fd"))
    del crew
    for pid in pids:
        wait_until_gone(pid)
    assert len(os.listdir("/proc/self/fd")) < before


PROGRAM = """
import os, signal, sys, time
import numpy as np
from gpucnn.backend import Window
from gpucnn.backend.cpu import processes
from gpucnn.backend.cpu import CpuDevice
processes.FIRST_CALLS = 0
backend, rng = CpuDevice(threads=2, compiled=False), np.random.default_rng(0)
x, w = rng.standard_normal((64, 6, 14, 14), np.float32), rng.standard_normal((16, 6, 5, 5), np.float32)
print(*backend.processes.wait(), flush=True)
y = backend.conv2d(x, w, None, Window((5, 5)))
"""


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "raise ValueError"])
def test_processes_end_with_the_program_however_it_ends(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM + end], capture_output=True, text=True, timeout=60
    )
    wait_until_gone(int(done.stdout))
    assert "Warning" not in done.stderr


def test_a_kernel_while_the_program_ends_starts_no_process() -> None:
    late = "import atexit; atexit.register(lambda: backend.conv2d(x, w, None, Window((5, 5))))"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", late + PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert not done.stderr


def test_a_python_without_memory_files_shares_among_threads() -> None:
    """As those are that were built for an old C library."""
    without = "import os; del os.memfd_create\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", without + PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert not done.stderr
    assert not done.stdout.strip(), "no process"


FORKED = """
child = os.fork()
ours = backend.conv2d(x, w, None, Window((5, 5)))
if child == 0:
    os._exit(0 if np.array_equal(ours, y) and not backend.processes._crew[1:] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for _ in range(3):
    assert np.array_equal(backend.conv2d(x, w, None, Window((5, 5))), y)
assert len(backend.processes._ready(1)) == 1
"""


@pytest.mark.bits
def test_a_forked_process_leaves_its_parents_workers_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM + FORKED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def repeated(array: Any, axis: int) -> Any:
    return np.broadcast_to(array.take([0], axis), array.shape)


def part_of_more_images(array: Any) -> Any:
    whole = np.zeros((*array.shape[1:], len(array) + 3), array.dtype)
    whole[..., : len(array)] = array.transpose(1, 2, 3, 0)
    return whole.transpose(3, 0, 1, 2)[: len(array)]


@pytest.mark.bits
@pytest.mark.parametrize(
    "lay_out", [lambda a: repeated(a, 0), lambda a: repeated(a, 1), lambda a: a[::-1, ::-1], part_of_more_images]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_how_a_part_lies_in_memory(
    monkeypatch: pytest.MonkeyPatch, lay_out: Any, dtype: str
) -> None:
    """A process has copies of its part, which are smaller and in order."""
    monkeypatch.setattr(processes, "FIRST_CALLS", 0)
    monkeypatch.setattr(processes, "HANDING_OVER", 1)
    rng, window = np.random.default_rng(0), Window((3, 3), (1, 1), (1, 1, 1, 1))
    alone, shared = CpuDevice(threads=2, compiled=False), CpuDevice(threads=2, compiled=False)
    monkeypatch.setattr(alone.processes, "_ready", lambda wanted: [])
    shared.processes.wait()
    for N in (1, 37):
        x = rng.standard_normal((N, 4, 11, 9)).astype(dtype)
        dy = lay_out(rng.standard_normal((N, 6, 11, 9)).astype(dtype))
        w = rng.standard_normal((6, 4, 3, 3)).astype(dtype)
        for name, arguments in (
            ("conv2d_weight_gradient", (x, dy, w.shape, window)), ("conv2d_input_gradient", (dy, w, x.shape, window)),
        ):  # fmt: skip
            here, there = (getattr(backend, name)(*arguments) for backend in (alone, shared))
            for one, other in zip(here, there, strict=True):
                assert np.array_equal(one, other), (name, N)
    assert shared.processes._losses == 0


@pytest.mark.bits
def test_kernels_have_the_same_bits_wherever_their_parts_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_CALLS", 0)
    monkeypatch.setattr(processes, "HANDING_OVER", 1)
    rng = np.random.default_rng(0)
    alone, shared, whole = (
        CpuDevice(threads=2, compiled=False),
        CpuDevice(threads=2, compiled=False),
        CpuDevice(threads=1, compiled=False),
    )
    monkeypatch.setattr(alone.processes, "_ready", lambda wanted: [])
    shared.processes.wait()
    for window, groups, N in (
        (Window((3, 3), (1, 1), (1, 1, 1, 1)), 1, 5), (Window((3, 2), (2, 1), (2, 0, 1, 1), (1, 2)), 2, 3),
        (Window((5, 5)), 1, 64), (Window((3, 3), (1, 1), (1, 1, 1, 1)), 1, 37),
    ):  # fmt: skip
        for name, arguments in convolution_calls(whole, rng, window, groups, N, np.float32):
            for here, there, once in results_of((alone, shared, whole), name, arguments):
                assert np.array_equal(here, there), name
                np.testing.assert_allclose(here, once, rtol=1e-4, atol=1e-4, err_msg=name)
    assert shared.processes._losses == 0
    assert len(shared.processes._ready(1)) == 1
