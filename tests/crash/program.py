"""Starts ``gpucnn`` in forks of this process, which has imported all of it: a run takes a fraction of a second."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

TIMEOUT = 300.0


@dataclass
class Ended:
    """How a command ended: its exit code (negative: the signal that killed it), and all that it said."""

    code: int
    text: str
    running: bool = True  # when the first signal was sent


def run(
    arguments: Sequence[str],
    said: Path,
    environment: dict[str, str] | None = None,
    signals: Sequence[tuple[float, int]] = (),
) -> Ended:
    """Run ``gpucnn ARGUMENTS`` in a process of its own. signals: (seconds since the one before, number)."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _be_gpucnn(arguments, said, environment or {})
    running, status = True, None
    for number, (delay, kind) in enumerate(signals):
        time.sleep(delay)
        status = status if status is not None else _ended(child)
        if status is None:
            os.kill(child, kind)
        elif not number:
            running = False
    until = time.monotonic() + TIMEOUT
    while status is None and (status := _ended(child)) is None:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"gpucnn {' '.join(arguments)} has not ended after {TIMEOUT:.0f} s")
        time.sleep(0.005)
    return Ended(os.waitstatus_to_exitcode(status), said.read_text(errors="replace") if said.exists() else "", running)


def _ended(child: int) -> int | None:
    pid, status = os.waitpid(child, os.WNOHANG)
    return status if pid else None


def _be_gpucnn(arguments: Sequence[str], said: Path, environment: dict[str, str]) -> NoReturn:
    code = 70
    try:
        from gpucnn.cli import main

        atexit._clear()  # the temporary folders of this process are not the child's to delete
        nothing = os.open(os.devnull, os.O_RDONLY)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number, to in enumerate((nothing, file, file)):
            os.dup2(to, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.environ.update(environment)
        sys.argv = ["gpucnn", *arguments]
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
