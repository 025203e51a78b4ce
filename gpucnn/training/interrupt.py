"""Ctrl-C, SIGTERM, and SIGHUP when a terminal closes: finish the step, save, exit."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from gpucnn.errors import GpucnnError


class InterruptedTraining(GpucnnError):
    """Training was asked to stop and has saved; ``exit_code`` is 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopSignal:
    """Within its ``with`` block, the first SIGINT, SIGTERM or SIGHUP sets ``number``; a second SIGINT interrupts at once.

    A SIGHUP that is already ignored, as under ``nohup``, stays so. With ``ctrl_c_alone`` only SIGINT is caught, and only
    where it would have raised KeyboardInterrupt: a library leaves the other signals to the program.

    Outside the main thread, where signals cannot be caught, it does nothing.
    """

    def __init__(self, ctrl_c_alone: bool = False) -> None:
        self.number: int | None = None
        self._ctrl_c_alone = ctrl_c_alone
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._caught():
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self) -> list[int]:
        if self._ctrl_c_alone:
            return [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none
            numbers.append(signal.SIGHUP)
        return [*numbers]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
