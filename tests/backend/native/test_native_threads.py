"""The pool of threads: several callers, forks, interrupts, busy cores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_process_ends_with_its_pool(threads: str) -> None:
    code = """
import sys, threading
import numpy as np
from gpucnn.backend import Window, get_backend
from gpucnn.backend.cpu import native as calls
from gpucnn.backend.native import library
from gpucnn.backend.cpu.workspace import Workspace
class Device:
    kernels, workspace, threads = library(), Workspace(), int(sys.argv[1])
x, w = np.ones((64, 8, 16, 16), np.float32), np.ones((16, 8, 3, 3), np.float32)
def work():
    while True:
        calls.conv2d(Device, x, w, None, Window((3, 3)))
threading.Thread(target=work, daemon=True).start()
for _ in range(50):
    calls.conv2d(Device, x, w, None, Window((3, 3)))
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, threads], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_other_python_threads_run_while_a_kernel_does() -> None:
    x = np.ones((64, 64, 32, 32), np.float32)
    w = np.ones((64, 64, 3, 3), np.float32)
    counted, ended = [0], threading.Event()

    def count() -> None:
        while not ended.wait(0.001):
            counted[0] += 1

    other = threading.Thread(target=count)
    other.start()
    before = counted[0]
    library()
    x = calls.batch_last(Device(), x)
    between = counted[0]
    calls.conv2d(Device(), x, w, None, WINDOW)
    after = counted[0]
    ended.set()
    other.join()
    assert after > between >= before
