"""Output to the terminal: control characters in names are escaped, and no line is written into a progress bar."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TextIO

import click

from gpucnn.errors import GpucnnError

UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: escape sequences begin with one of them
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # line separators, and what reverses the direction of writing
    "\ud800-\udfff]"  # bytes of a file name that are not UTF-8
)

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Errors of writing to a pipe without a reader (``| head``) or to a closed terminal."""

PLAIN_WIDTH = 120
"""Columns of output that does not go to a terminal."""

LONGEST_NAME = 30
"""Columns of the longest name in a table; longer names are cut."""

LONGEST_WORD = 300
"""Columns of the longest word in an error."""

LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def printable(text: object) -> str:
    """Return ``text`` on one line, with every character that would control a terminal escaped.

    >>> printable("a\\x1b[2Jb\\n")
    'a\\\\x1b[2Jb\\\\n'
    """
    return UNPRINTABLE.sub(_spelled_out, str(text))


def _spelled_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """Return a name for a table: printable and at most ``most`` characters long.

    >>> shortened("a" * 9, 5)
    'aa...'
    """
    name = printable(name)
    return name if len(name) <= most else name[: most - 3] + "..."


def width() -> int:
    """Return the columns available on standard output."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else PLAIN_WIDTH


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; False for a closed one."""
    return stream is not None and not stream.closed and stream.isatty()


def say(message: str, err: bool = False) -> None:
    """Print one line, beside any progress bar; to standard error with ``err``.

    Where nobody reads any more, the command continues silently. GpucnnError where the disk behind standard output is full.
    """
    _write(printable(message) + "\n", err)


def say_lines(lines: Iterable[str], err: bool = False) -> None:
    """Print lines."""
    for line in lines:
        say(line, err)


def say_json(values: Any) -> None:
    """Print one JSON object as one line of ASCII."""
    _write(json.dumps(values).replace("\x7f", "\\u007f") + "\n", err=False)


def say_error(message: str) -> None:
    """Print an error in one or two lines; the second is indented, so that a name cannot imitate another message.

    Words longer than a file's name can be, such as an option of thousands of digits, are cut.
    """
    coloured = is_terminal(sys.stderr) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    head = click.style("Error: ", fg="red", bold=True) if coloured else "Error: "
    lines = (
        LONG_WORD.sub(lambda word: shortened(word[0], LONGEST_WORD), printable(line)) for line in message.split("\n", 1)
    )
    _write(head + "\n  ".join(lines) + "\n", err=True)


def clear_line() -> None:
    """Clear the current line of standard error, if it is a terminal: a bar, and the ^C echoed into it."""
    if is_terminal(sys.stderr):
        with gone_is_no_error():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def gone_is_no_error() -> Iterator[None]:
    """If the terminal is gone when the block draws on standard error, discard what follows."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise
        _abandon(2)


def _write(text: str, err: bool) -> None:
    stream = sys.stderr if err else sys.stdout
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        with _beside_bars():
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
    except OSError as error:
        _abandon(2 if err else 1)
        if error.errno not in GONE and not err:
            raise GpucnnError(f"standard output: cannot be written ({error.strerror}).") from None


def _abandon(stream: int) -> None:
    """Redirect standard output (1) or error (2) to the null device: Python would flush again, and complain, at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def _beside_bars() -> AbstractContextManager[None]:
    """Return a context in which progress bars are hidden; they are drawn again afterwards."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is None or not getattr(tqdm.tqdm, "_instances", None):
        return nullcontext()
    beside: AbstractContextManager[None] = tqdm.tqdm.external_write_mode()
    return beside


def open_standard_streams() -> None:
    """Open closed streams (``>&-``) on the null device: otherwise the next file opened would get their number.

    A library's output to "standard output" would then go into a checkpoint.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
