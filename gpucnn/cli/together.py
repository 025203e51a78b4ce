"""A command that several processes run together: rank 0 alone prints and writes the run folder.

Processes that ``--processes`` started tell their parent, in a folder of its own, who they are, where the run lies, how they
ended, and whether they work or wait for the others (``Status``).
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.backend import Array
from gpucnn.disk import write_atomically
from gpucnn.distributed import Communicator
from gpucnn.errors import DivergedError, GpucnnError
from gpucnn.training import Callback, InterruptedTraining
from gpucnn.training.followed import FollowedFolder
from gpucnn.training.run_folder import RunFolder

FOLDER = "GPUCNN_TOGETHER"
"""The environment variable with the folder of the parent, for processes that ``--processes`` started."""

TOGETHER = (InterruptedTraining, DivergedError)
"""What ends all processes at the same step: they end one by one, rather than the first ending the others."""


class Status:
    """What a process tells the parent that started it; without one, nothing.

    Files of rank K: K.json (pid, host, run, and how it ended); K.beat (when it last began to work or to wait, and 1 where it
    waits).
    """

    def __init__(self, rank: int) -> None:
        folder = os.environ.get(FOLDER)
        self.rank, self._folder = rank, None if folder is None else Path(folder)
        self._about: dict[str, Any] = {"rank": rank, "pid": os.getpid(), "host": socket.gethostname()}
        self._beat: Any = None
        if self._folder is not None:
            self._beat = np.memmap(self._folder / f"{rank}.beat", np.float64, "w+", shape=(2,))
            self.beat(waits=False)
            self.tell()

    def tell(self, **more: Any) -> None:
        """Add to what the parent knows."""
        self._about |= more
        if self._folder is not None:
            write_atomically(self._folder / f"{self.rank}.json", json.dumps(self._about).encode())

    def beat(self, waits: bool) -> None:
        """Note that the process begins to wait for the others, or to work."""
        if self._beat is not None:
            self._beat[:] = time.time(), waits


class WatchedCommunicator(Communicator):
    """A communicator that tells the parent when it waits for other processes."""

    def __init__(self, comm: Communicator, status: Status) -> None:
        self._comm, self._status = comm, status
        self.rank, self.size = comm.rank, comm.size

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._status.beat(waits=True)
        yield
        self._status.beat(waits=False)

    def all_reduce(self, array: Array) -> None:
        with self._waiting():
            self._comm.all_reduce(array)

    def broadcast(self, array: Array, root: int = 0) -> None:
        with self._waiting():
            self._comm.broadcast(array, root)

    def gather(self, value: Any) -> list[Any]:
        with self._waiting():
            return self._comm.gather(value)

    def barrier(self) -> None:
        with self._waiting():
            self._comm.barrier()

    def abort(self, code: int) -> None:
        self._comm.abort(code)

    def close(self) -> None:
        self._comm.close()


class TellRun(Callback):
    """Tells the parent in which folder the run lies."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def start(self, loop: Any) -> None:
        self._status.tell(run=str(loop.folder.path))


@contextmanager
def one_speaks(comm: Communicator) -> Iterator[tuple[Communicator, Status]]:
    """Silence the other ranks within the block; where one fails, say which, and end all."""
    if comm.size == 1:
        yield comm, Status(0)
        return
    status = Status(comm.rank)
    comm = WatchedCommunicator(comm, status)
    _use_own_cores(comm)
    stopped: GpucnnError | None = None
    with comm, ExitStack() as stack:
        if comm.rank:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        try:
            yield comm, status
        except TOGETHER as error:
            stopped = error
        except BaseException as error:
            usual = 130 if isinstance(error, KeyboardInterrupt) else 4 if isinstance(error, MemoryError) else 1
            code = getattr(error, "exit_code", usual)
            status.tell(failed=f"{type(error).__name__}: {error}", code=code)
            raise
    if stopped is not None:
        status.tell(ended=stopped.exit_code)
        if comm.rank:  # so that the launcher does not end rank 0, which has something to say
            sys.exit(0)
        raise stopped


def shared_folder(comm: Communicator, choose: Callable[[], RunFolder]) -> RunFolder:
    """Return the run folder that rank 0 chooses, which the other ranks follow."""
    own = choose() if comm.rank == 0 else None
    path, begins = comm.gather(None if own is None else [str(own.path), own.begins()])[0]
    return own or FollowedFolder(Path(path), begins)


def speak_to_the_parents_terminal() -> None:
    """Let rank 0 write where the parent does: a launcher's pipes are no terminal, and have no bar."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        terminal = Path(folder, f"{name}.tty")
        if terminal.exists():
            target, flags = terminal.read_text(encoding="utf-8"), os.O_WRONLY | os.O_NOCTTY
        else:
            target, flags = str(Path(folder, name)), os.O_WRONLY | os.O_APPEND
        stream.flush()
        opened = os.open(target, flags)
        os.dup2(opened, stream.fileno())
        os.close(opened)


def _use_own_cores(comm: Communicator) -> None:
    """Bind the processes that a parent started to cores of their own, where there are enough of them."""
    if FOLDER in os.environ and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        each = len(cores) // comm.size
        if each:
            os.sched_setaffinity(0, cores[comm.rank * each : (comm.rank + 1) * each])
