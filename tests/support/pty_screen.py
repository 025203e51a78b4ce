"""Runs a program on a terminal of its own, and shows what it writes there as a terminal would."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import Any

import pytest
from runs import environment

fcntl = pytest.importorskip("fcntl")

COLUMNS = 100


class Screen:
    """What stands on a terminal of some columns: its lines, those that scrolled away included.

    Knows what programs here use: return, line feed, erasing to the line's end, one line up, colours. ``unknown`` holds every
    other control character or sequence that came.
    """

    SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\s\S])")

    def __init__(self, written: str, columns: int = COLUMNS) -> None:
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self.unknown: list[str] = []
        for match in self.SEQUENCE.finditer(written):
            amount, command, character = match.groups()
            if character == "\r":
                self._column = 0
            elif character == "\n":
                self._down()
            elif character is not None and (character.isprintable()):
                if self._column == columns:
                    self._down()
                    self._column = 0
                self._put(character)
            elif command == "K" and amount in ("", "0"):
                del self._rows[self._row][self._column :]
            elif command == "A":
                self._row = max(self._row - int(amount or 1), 0)
            elif command != "m":
                self.unknown.append(match[0])

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])

    def _put(self, character: str) -> None:
        row = self._rows[self._row]
        row += " " * (self._column + 1 - len(row))
        row[self._column] = character
        self._column += 1

    @property
    def lines(self) -> list[str]:
        """The lines from the top, without the blanks at their ends."""
        return ["".join(row).rstrip() for row in self._rows]


def run_to_end(
    *arguments: Any, columns: int = COLUMNS, on: Callable[[str, int], None] | None = None, **variables: str
) -> tuple[str, int]:
    """Return what ``python ARGUMENTS`` writes on a terminal, and its exit code.

    on: called with all that came so far and a descriptor, to which what it writes is as if typed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    env = environment(TERM="xterm", COLUMNS=str(columns), LINES="30", **variables)
    if "NO_COLOR" not in variables:
        env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=env,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        written += piece
        if on is not None:
            on(written.decode(errors="replace"), ours)
    os.close(ours)
    return written.decode(), process.wait(timeout=60)


def run(*arguments: Any, **options: Any) -> str:
    """Return what ``python ARGUMENTS`` writes on a terminal; options as for ``run_to_end``."""
    return run_to_end(*arguments, **options)[0]
