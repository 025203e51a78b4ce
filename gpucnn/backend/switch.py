"""The switch: which backend computes. Nothing above this floor names numpy or cupy for tensor work."""

from __future__ import annotations

import os
import re
import threading
import warnings
from types import TracebackType
from typing import Any

from gpucnn.backend.base import Backend
from gpucnn.errors import DeviceError, MixedDeviceError, ParameterError

_lock = threading.RLock()
_backends: dict[str, Backend] = {}
_process_default: Backend | None = None
_thread = threading.local()
_told_why = False


def get_backend(device: str | Backend | None = None) -> Backend:
    """Return the backend of ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``; the default one for None.

    ``cuda`` that cannot work raises DeviceError with the reason. ``auto`` takes the GPU where a small piece of work
    runs on it and otherwise the CPU, and says why, once.

    >>> get_backend("cpu").name
    'cpu'
    """
    if device is None:
        return default_backend()
    if isinstance(device, Backend):
        return device
    if not isinstance(device, str) or not re.fullmatch(r"cpu|auto|cuda(:[0-9]+)?", device):
        raise ParameterError.expected("get_backend", "device", "'cpu', 'cuda', 'cuda:N' or 'auto'", repr(device))
    with _lock:
        if device == "auto":
            return _automatic()
        name = device if device == "cpu" else f"cuda:{int(device[5:] or 0)}"
        if name not in _backends:
            _backends[name] = _make(name)
        return _backends[name]


def _make(name: str) -> Backend:
    if name == "cpu":
        from gpucnn.backend.cpu import CpuBackend

        return CpuBackend()
    from gpucnn.backend.cuda import CudaBackend

    return CudaBackend(int(name.removeprefix("cuda:")))


def _automatic() -> Backend:
    global _told_why
    try:
        return get_backend("cuda")
    except DeviceError as error:
        if not _told_why:
            _told_why = True
            warnings.warn(f"device auto: using the CPU, because {error}", stacklevel=4)
        return get_backend("cpu")


def default_backend() -> Backend:
    """Return what new tensors go to: this thread's choice, else the process's, else ``GPUCNN_DEVICE``, else the CPU."""
    global _process_default
    chosen: Backend | None = getattr(_thread, "backend", None) or _process_default
    if chosen is None:
        device = os.environ.get("GPUCNN_DEVICE") or "cpu"
        try:
            chosen = _process_default = get_backend(device)
        except ParameterError as error:
            raise ParameterError(f"GPUCNN_DEVICE: {error}") from None
    return chosen


class use:
    """Choose the device of new tensors: ``use("cuda")`` for the process, ``with use("cuda"):`` for this thread.

    Raises what ``get_backend`` raises; the choice is then unchanged.

    >>> with use("cpu") as backend:
    ...     backend.name
    'cpu'
    """

    def __init__(self, device: str | Backend) -> None:
        global _process_default
        self.backend = get_backend(device)
        with _lock:
            self._process_before, _process_default = _process_default, self.backend

    def __enter__(self) -> Backend:
        global _process_default
        with _lock:  # it was meant for this thread: give the process its choice back
            _process_default = self._process_before
        self._thread_before = getattr(_thread, "backend", None)
        _thread.backend = self.backend
        return self.backend

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _thread.backend = self._thread_before

    def __repr__(self) -> str:
        return f"use({self.backend.name!r})"


def backend_of(array: Any) -> Backend:
    """Return the backend that ``array`` lives on; MixedDeviceError for what is no array of a known device."""
    for backend in list(_backends.values()):
        if backend.owns(array):
            return backend
    if type(array).__module__.startswith("numpy"):
        return get_backend("cpu")
    raise MixedDeviceError.expected(
        "backend_of", "array", "an array of a device in use", type(array).__name__, "use gpucnn.tensor(...) to make one"
    )
