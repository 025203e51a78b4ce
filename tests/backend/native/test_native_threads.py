"""The pool of threads: several callers, forks, interrupts, busy cores."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from native_kernels import Device
from runs import environment

from gpucnn.backend import Window
from gpucnn.backend.cpu import native as calls
from gpucnn.backend.native import library

if library() is None:
    pytest.skip("no compiled kernels", allow_module_level=True)

WINDOW = Window((3, 3), (1, 1), (1, 1, 1, 1))
X = np.random.default_rng(0).standard_normal((32, 8, 16, 16), np.float32)
FILTERS = np.random.default_rng(1).standard_normal((16, 8, 3, 3), np.float32)


def convolve(threads: int = 2) -> bytes:
    return bytes(np.ascontiguousarray(calls.conv2d(Device(threads), X, FILTERS, None, WINDOW)))


def test_callers_at_the_same_time_get_the_same_bits() -> None:
    expected = convolve(1)
    with ThreadPoolExecutor(6) as executor:
        assert all(found == expected for found in executor.map(lambda _: convolve(3), range(60)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    expected = convolve(3)
    assert library().workers() >= 2
    child = os.fork()
    if not child:
        none_yet = library().workers() == 0
        right = convolve(3) == expected
        os._exit(0 if none_yet and right and library().workers() == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert convolve(3) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_others_use_the_pool_does_not_hang_the_child() -> None:
    expected, ended = convolve(1), threading.Event()

    def work() -> None:
        while not ended.is_set():
            convolve(3)

    user = threading.Thread(target=work)
    user.start()
    try:
        for _ in range(20):
            child = os.fork()
            if not child:
                os._exit(0 if convolve(3) == expected else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        ended.set()
        user.join()


# Programs of their own.

PROGRAM = """
import ctypes, hashlib, multiprocessing, os, signal, sys, threading, time
import numpy as np
from gpucnn.backend import Window, get_backend, ops
from gpucnn.backend.native import library

def convolve(_=0):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 8, 16, 16), np.float32), rng.standard_normal((16, 8, 3, 3), np.float32)
    y = ops.conv2d(get_backend("cpu"), x, w, None, Window((3, 3)))
    return hashlib.sha256(np.ascontiguousarray(y)).hexdigest(), library().workers(), os.getpid()

def work():
    while True:
        convolve()
"""


def run(tmp_path: Path, code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + code)
    env = environment(**{"GPUCNN_THREADS": "3", **variables})
    try:
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", program, *words],
            capture_output=True, text=True, timeout=120, env=env, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:  # twice in thousands of runs, after SIGINT, and not understood
        said = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr
        pytest.fail(f"it did not end within {late.timeout} s, and said: {said!r}")


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_however_they_are_started_have_pools_of_their_own(tmp_path: Path, method: str) -> None:
    code = """
if __name__ == "__main__":
    here = convolve()
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        found = pool.map(convolve, range(4), chunksize=1)
    bits, workers, processes = map(set, zip(*found))
    print(bits == {here[0]}, workers, here[2] in processes)
"""
    done = run(tmp_path, code, method)
    assert (done.stdout, done.returncode) == ("True {2} False\n", 0), done.stderr


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("raise ValueError", 1),
        ("os.kill(os.getpid(), signal.SIGINT); work()", -signal.SIGINT),
        ("os.kill(os.getpid(), signal.SIGTERM); work()", -signal.SIGTERM),
        ("signal.signal(signal.SIGALRM, signal.default_int_handler); signal.alarm(1); work()", -signal.SIGINT),
    ],
)  # fmt: skip
def test_a_process_ends_with_its_pool(tmp_path: Path, end: str, code: int) -> None:
    """However it ends, and while another thread uses the pool."""
    if os.name != "posix" and code < 0:
        pytest.skip("no such signals on this system")
    text = "threading.Thread(target=work, daemon=True).start()\n[convolve() for _ in range(20)]\n" + end
    done = run(tmp_path, text)
    assert done.returncode == code, done.stderr
    assert "Fatal" not in done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers of signals on this system")
def test_an_interrupt_leaves_the_pool_as_it_was() -> None:
    expected, handler = convolve(1), signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for delay in (0.001, 0.003, 0.01):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(KeyboardInterrupt):
                any(not convolve(3) for _ in itertools.count())
            assert convolve(3) == expected
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_parts_run_at_the_same_time_and_python_meanwhile(tmp_path: Path) -> None:
    """Two parts of a product, whose function is one of Python's here, meet each other and a thread of Python."""
    code = """
meeting = threading.Barrier(3, timeout=60)
matrix = ctypes.c_void_p, ctypes.c_int64
words, sizes = 3 * [ctypes.c_int], 3 * [ctypes.c_int64]
kind = ctypes.CFUNCTYPE(None, *words, *sizes, ctypes.c_float, *matrix, *matrix, ctypes.c_float, *matrix)
function = kind(lambda *arguments: meeting.wait())
address = ctypes.cast(function, ctypes.c_void_p).value
other = threading.Thread(target=meeting.wait)
other.start()
a, b, y = (np.ones((size, size), np.float32) for size in (128, 128, 128))
library().matmul(address, 1, 128, 128, 128, a, b, 0, None, y, 2)
other.join()
print("met", meeting.broken)
"""
    done = run(tmp_path, code)
    assert (done.stdout, done.stderr) == ("met False\n", "")


def test_other_python_threads_run_while_a_kernel_does() -> None:
    """Between two calls one of them may run for a moment: several turns within one call are the proof."""
    x, w = np.ones((64, 32, 32, 64), np.float32).transpose(3, 0, 1, 2), np.ones((64, 64, 3, 3), np.float32)
    counted, ended, most = [0], threading.Event(), 0

    def count() -> None:
        while not ended.wait(0.001):
            counted[0] += 1

    other = threading.Thread(target=count)
    other.start()
    try:
        for _ in range(100):
            before = counted[0]
            calls.conv2d(Device(), x, w, None, WINDOW)
            if (most := max(most, counted[0] - before)) > 4:
                break
    finally:
        ended.set()
        other.join()
    assert most > 4
