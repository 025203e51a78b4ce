"""Which of several GPUs is current: on a real machine an array used while another one is, is read at an illegal address."""

import contextlib
import threading
from collections.abc import Iterator

count = 1
"""How many GPUs there are."""


class _Thread(threading.local):
    current = 0

    def __init__(self) -> None:
        self.entered: list[int] = []


_thread = _Thread()


def current() -> int:
    """Return the number of this thread's current GPU."""
    return _thread.current


def entered() -> list[int]:
    """Return the GPUs that were current before each ``with Device`` that this thread is in."""
    return _thread.entered


def make_current(device: int) -> None:
    _thread.current = device


def check(device: int) -> None:
    """RuntimeError where an array of ``device`` is used while another GPU is the current one."""
    if device != _thread.current:
        raise RuntimeError(f"cudaErrorIllegalAddress: an array of device {device} is used while {current()} is current")


@contextlib.contextmanager
def several(number: int) -> Iterator[None]:
    """Within, there are so many GPUs."""
    global count
    before, count = count, number
    try:
        yield
    finally:
        count = before
