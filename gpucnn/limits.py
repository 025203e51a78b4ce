"""Bounds on the memory and time that an untrusted file may cost, and the one switch that lifts them.

A small file can claim, or unpack to, a great deal. Code that reads a file compares the cost with a bound first:
``check(str(path), "pixels", width * height, PICTURE_PIXELS)``. ``applied(False)`` lifts all bounds within its block, which
is what ``limits=False`` does in Python and ``--no-limits`` on the command line. The switch belongs to the context
(``contextvars``): a pool of threads or processes needs it passed on, ``pool.submit(copy_context().run, read, path)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gpucnn.errors import DataError, GpucnnError

DATA_BYTES = 2**34
"""The most bytes of a data set in memory."""

UNPACKED_BYTES, UNPACKED_RATIO = 2**28, 64
"""A packed file may unpack to this many bytes, or to this multiple of its size if that is more (MNIST: 5)."""

PICTURE_PIXELS = 50_000_000
"""Largest image file in pixels: more than most cameras produce, less than fills the memory."""

PICTURE_BYTES = 2**27
"""Largest image file in bytes: more than any camera produces, less than takes a minute to read."""

PICTURE_SECONDS = 4.0
"""CPU seconds for decoding one image; a large photograph takes one."""

REMEDY = "If you trust the file, lift the bounds with --no-limits (in Python limits=False)."

_on: ContextVar[bool] = ContextVar("gpucnn_limits", default=True)


def unpacked_bytes(packed: int) -> int:
    """Return the bytes that a file of ``packed`` bytes may unpack to.

    >>> unpacked_bytes(1000) == UNPACKED_BYTES
    True
    """
    return min(max(UNPACKED_BYTES, UNPACKED_RATIO * packed), DATA_BYTES)


def on() -> bool:
    """Whether the bounds apply in this context."""
    return _on.get()


@contextmanager
def applied(limits: bool = True) -> Iterator[None]:
    """Apply the bounds within the block, or lift them with False. True does not re-apply them inside a block with False.

    >>> with applied(False):
    ...     check("huge.png", "pixels", 10**12, PICTURE_PIXELS)
    """
    token = _on.set(_on.get() and limits)
    try:
        yield
    finally:
        _on.reset(token)


def check(where: str, what: str, amount: float, most: float, error: type[GpucnnError] = DataError) -> None:
    """Raise ``error`` if the bounds apply and ``amount`` exceeds ``most``. ``what`` is the unit in the message.

    >>> try:
    ...     check("huge.png", "pixels", 10**9, PICTURE_PIXELS)
    ... except DataError as error:
    ...     print(str(error).partition(". ")[0])
    huge.png: expected at most 50,000,000 pixels, got 1,000,000,000
    """
    if on() and amount > most:
        raise error(f"{where}: expected at most {most:,} {what}, got {amount:,}. {REMEDY}")
