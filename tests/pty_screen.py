"""Runs Python on a terminal of its own, and returns all that it wrote there."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from typing import Any

from runs import environment


def run(*arguments: Any, **variables: str) -> str:
    """Return what ``python ARGUMENTS`` writes on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    env = environment(TERM="xterm", COLUMNS="100", LINES="30", **variables)
    if "NO_COLOR" not in variables:
        env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
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
    os.close(ours)
    process.wait(timeout=60)
    return written.decode()
