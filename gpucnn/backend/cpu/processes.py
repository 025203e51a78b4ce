"""Worker processes, for parts of kernels that are too small for threads.

Python's threads contend for the interpreter lock in every NumPy call, and if waking a core takes 40 microseconds, each wait
costs as much. A process has its own interpreter. The inputs of its part of a kernel are copied into shared memory and the
outputs are copied back. Both sides poll their socket for a moment before they block on it, so a dispatch takes 3
microseconds (docs/performance.md).

A call is described once. A later call with the same shapes sends only its number. The bits of a part do not depend on the
process that computes it. The other end is ``gpucnn.backend.cpu.worker_process``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.backend.device import Array
from gpucnn.backend.geometry import Window

SUPPORTED = (
    sys.platform == "linux" and hasattr(os, "memfd_create")  # which Pythons built for an old glibc do not have
    and bool(sys.executable) and not getattr(sys, "frozen", False)
)  # fmt: skip
"""Whether the system has the needed kinds of memory and sockets, and an interpreter that can be started."""
HANDING_OVER = 1.5e6
"""Floating-point operations of a core in the time of dispatching and fetching a part: some 40 microseconds."""
MOST = 8
"""The most processes, including the caller's: each takes 30 MB, and one process dispatches to all of them."""
LARGEST_PART = 6 << 20
"""Bytes of a part's arrays up to which processes are faster. Above it, NumPy calls are long enough for threads."""
FIRST_CALLS = 16
"""Kernels run without processes at first: starting one takes 150 ms, too long for a short program."""
AWAKE = 0.002
"""Seconds for which a receiver polls for a message before it blocks."""
JUDGED = 10
"""Shared kernels between evaluations of whether sharing pays. On busy cores, waiting takes longer than working."""
REST, LONGEST_REST = 0.02, 5.0
"""Seconds of back-off if sharing does not pay, doubled after each further failure up to the longest."""
LOSSES = 3
"""The number of lost processes after which no more are started."""
KNOWN = 256
"""The most call descriptions that a process keeps."""
MESSAGE = 1 << 16
NUMBER = 4
"""Bytes of a message: of the longest, and of one that is a number only: of a known call, or of the calls done so far."""
READY = b"ready"


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """``kernel(device, window, *given, *written, *options)``: some arrays are read, others are written, every number."""

    kernel: Callable[..., None]
    window: Window
    given: tuple[Array | None, ...]
    written: tuple[Array | None, ...]
    options: tuple[Any, ...] = ()

    @property
    def arrays(self) -> tuple[Array | None, ...]:
        return self.given + self.written

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays if array is not None)

    def run(self, device: Any) -> None:
        self.kernel(device, self.window, *self.arrays, *self.options)

    def key(self) -> tuple[Any, ...]:
        """Return the key of a call: equal for calls that differ only in the values of their arrays."""
        seen = (None if a is None else (a.shape, a.strides, a.dtype.char) for a in self.arrays)
        return self.kernel, self.window, self.options, *seen

    def described(self) -> dict[str, Any]:
        """Return the call as plain values; its arrays as (offset, shape, order of axes, dtype) in shared memory."""
        layout: list[Any] = []
        size = 0
        for array in self.arrays:
            if array is None:
                layout.append(None)
                continue
            order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
            layout.append((size, [array.shape[axis] for axis in order], order, array.dtype.str))
            size += -(-array.nbytes // 64) * 64
        name = f"{self.kernel.__module__}:{self.kernel.__name__}"
        window = self.window
        shape = window.kernel, window.stride, window.padding, window.dilation
        return {"kernel": name, "window": shape, "layout": layout, "options": self.options, "size": size}


def arrays_at(memory: mmap.mmap, layout: Sequence[Any]) -> list[Array | None]:
    """Return the arrays in shared memory, laid out by ``Call.described``."""
    found: list[Array | None] = []
    for entry in layout:
        if entry is not None:
            offset, shape, order, dtype = entry
            back = sorted(range(len(order)), key=order.__getitem__)
            found.append(np.ndarray(shape, dtype, memory, offset).transpose(back))
        else:
            found.append(None)
    return found


def numbered(number: int) -> bytes:
    """Return a number as a message."""
    return number.to_bytes(NUMBER, "little")


def receive(connection: socket.socket) -> bytes:
    """Return the next message, or b"" if the other end is closed. Poll for a moment, then block."""
    until = time.perf_counter() + AWAKE
    while time.perf_counter() < until:
        with contextlib.suppress(BlockingIOError):
            return connection.recv(MESSAGE, socket.MSG_DONTWAIT)
    return connection.recv(MESSAGE)


def _copy(sources: Sequence[Array | None], targets: Sequence[Array | None]) -> None:
    for source, target in zip(sources, targets, strict=True):
        if source is not None and target is not None:
            np.copyto(target, source)


class Lost(Exception):
    """The process ended, or its part failed."""


class Process:
    """The owner's handle of a worker process. It is ready some time after its start, and may be lost at any time."""

    def __init__(self) -> None:
        self._size = 0
        self._memory: mmap.mmap | None = None
        self._known: dict[Any, tuple[bytes, list[Array | None]]] = {}
        self._numbers = itertools.count()
        self._handed_over = 0
        self._shared: list[Array | None] = []
        self._ready = False
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
        alone = dict.fromkeys(("GPUCNN_THREADS", "GPUCNN_BLAS_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with contextlib.ExitStack() as opened:
            self._file = os.memfd_create("gpucnn")
            opened.callback(os.close, self._file)
            self._connection, theirs = map(
                opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            )
            files = (theirs.fileno(), self._file)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gpucnn.backend.cpu.worker_process", *map(str, files)],
                pass_fds=files, env={**os.environ, **alone, "PYTHONPATH": path}, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            theirs.close()  # so that what waits for an answer hears when the process ends
            self._opened = opened.pop_all()

    @property
    def number(self) -> int:
        """The process id."""
        return self._process.pid

    def ready(self) -> bool:
        """Whether the process has reported that it is ready; Lost if it has ended."""
        if not self._ready:
            try:
                answer = self._connection.recv(MESSAGE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if answer != READY:
                raise Lost
            self._ready = True
        return True

    def start(self, call: Call, limit: int) -> None:
        """Dispatch a call, which may use ``limit`` bytes for padded images."""
        key = (limit, *call.key())
        if key in self._known:
            message, self._shared = self._known[key]
        else:
            message = self._introduce(key, call, limit)
        _copy(call.given, self._shared[: len(call.given)])
        self._handed_over += 1
        self._connection.send(message)

    def finish(self, call: Call) -> None:
        """Wait for the dispatched call and fetch its outputs; Lost if the answer is to an earlier call."""
        if receive(self._connection) != numbered(self._handed_over):
            raise Lost
        _copy(self._shared[len(call.given) :], call.written)

    def _introduce(self, key: Any, call: Call, limit: int) -> bytes:
        """Lay out the arrays of a new call and return its description."""
        described = call.described()
        if self._memory is None or described["size"] > self._size:
            self._size = 2 * described["size"]
            os.ftruncate(self._file, self._size)
            self._memory = mmap.mmap(self._file, self._size)
        forget = len(self._known) >= KNOWN
        if forget:
            self._known.clear()
        number = next(self._numbers)
        self._shared = arrays_at(self._memory, described["layout"])
        self._known[key] = numbered(number), self._shared
        described |= {"number": number, "limit": limit, "memory": self._size, "forget": forget}
        return json.dumps(described).encode()

    def forget(self) -> None:
        """Drop the handle without a message, in a process forked from the owner."""
        self._opened.close()
        self._process.returncode = 0  # not a child of this process

    def end(self) -> None:
        """End the process, after its current call or after a second."""
        self._opened.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Processes:
    """A pool of up to ``count`` - 1 worker processes, started when they pay, and the caller's own process.

    While they work for one caller, other callers do all their work themselves. They end with this object or the program.
    """

    def __init__(self, count: int) -> None:
        self.count, self.supported = min(count, MOST), SUPPORTED and count > 1
        self._free = threading.Lock()
        self._crew: list[Process] = []
        self._calls = self._losses = self._judged = 0
        self._own = self._waited = self._rest_until = 0.0
        self._rest = REST
        self._end = weakref.finalize(self, _end, self._crew)
        _all.add(self)

    def takes(self, nbytes: int) -> bool:
        """Whether arrays of this total size are fast to copy."""
        return self.supported and nbytes <= LARGEST_PART * self.count

    def parts(self, work: float) -> int:
        """Return the number of parts that minimises work / parts + parts * HANDING_OVER."""
        return max(min(self.count, math.isqrt(int(work // HANDING_OVER))), 1)

    def run(self, device: Any, calls: Sequence[Call], limit: int) -> None:
        """Run the calls: the first in this process, the others in worker processes as far as those are available."""
        if len(calls) < 2 or not self._free.acquire(blocking=False):
            for call in calls:
                call.run(device)
            return
        try:
            self._share(device, calls, limit)
        finally:
            self._free.release()

    def wait(self, seconds: float = 30) -> list[int]:
        """Start the processes now, wait until they are ready, and return their numbers."""
        self._calls, until = max(self._calls, FIRST_CALLS), time.monotonic() + seconds
        while self.supported and len(self._ready(self.count - 1)) < self.count - 1 and self._losses < LOSSES:
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        return [process.number for process in self._crew]

    def _share(self, device: Any, calls: Sequence[Call], limit: int) -> None:
        busy: dict[Process, Call] = {}
        try:
            for process, call in zip(self._ready(len(calls) - 1), calls[1:], strict=False):
                with self._watching(process):
                    process.start(call, limit)
                    busy[process] = call
            begun = time.perf_counter()
            for call in calls:
                if call not in busy.values():
                    call.run(device)
            own = time.perf_counter() - begun
            shared = list(busy.items())
            for process, call in shared:
                done = False
                with self._watching(process):
                    process.finish(call)
                    done = True
                del busy[process]
                if not done:
                    call.run(device)
            if shared:
                self._judge(own, time.perf_counter() - begun - own)
        finally:
            for process in busy:  # after an interrupt it may still be working
                self._let_go(process)

    def _ready(self, wanted: int) -> list[Process]:
        """Return the processes that are ready; start more if there are fewer than wanted."""
        self._calls += 1
        if self._calls <= FIRST_CALLS or time.monotonic() < self._rest_until or not self._end.alive:
            return []
        while len(self._crew) < min(wanted, self.count - 1) and self._losses < LOSSES:
            try:
                self._crew.append(Process())
                self._judged = -JUDGED
            except OSError:
                self._losses = LOSSES
        ready = []
        for process in list(self._crew):
            with self._watching(process):
                if process.ready():
                    ready.append(process)
        return ready

    def _judge(self, own: float, waited: float) -> None:
        self._judged += 1
        if self._judged > 0:  # a new process is slow at first
            self._own, self._waited = self._own + own, self._waited + waited
        if self._judged == JUDGED:
            pays = self._waited <= self._own
            self._rest = REST if pays else min(2 * self._rest, LONGEST_REST)
            self._rest_until = 0.0 if pays else time.monotonic() + self._rest
            self._own, self._waited, self._judged = 0.0, 0.0, 0

    @contextlib.contextmanager
    def _watching(self, process: Process) -> Iterator[None]:
        """Drop a process that is lost. The caller then computes its part."""
        try:
            yield
        except (Lost, OSError):
            self._losses += 1
            self._let_go(process)
        except BaseException:  # an interrupt at any line: the state of the process is unknown
            self._let_go(process)
            raise

    def _let_go(self, process: Process) -> None:
        if process in self._crew:  # not if the program is ending
            self._crew.remove(process)
        process.end()


def _end(crew: list[Process]) -> None:
    while crew:
        crew.pop().end()


_all: weakref.WeakSet[Processes] = weakref.WeakSet()


def _forget_processes() -> None:
    """In a forked process, drop the worker processes: they are the parent's."""
    for processes in _all:
        processes._free = threading.Lock()
        while processes._crew:
            processes._crew.pop().forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_processes)
