"""The registry of devices: which one computes. Nothing above ``backend`` names numpy or cupy for tensor work."""

from __future__ import annotations

import copyreg
import os
import re
import threading
import warnings
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

from gpucnn.backend.device import Device
from gpucnn.errors import DeviceError, MixedDeviceError, ParameterError

NAMES = {"numpy": "cpu", "cupy": "cuda", "gpu": "cuda"}
"""Other names of devices."""

_lock = threading.RLock()
_factories: dict[str, Callable[[int], Device]] = {}
_devices: dict[str, Device] = {}
_process_default: Device | None = None
_thread = threading.local()
_told_why = False


def register(kind: str, factory: Callable[[int], Device], device: type[Device]) -> None:
    """Let ``get_backend`` find a kind of device: ``factory(index)`` makes the one with that number."""
    _factories[kind] = factory
    copyreg.pickle(device, lambda made: (get_backend, (made.name,)))  # a copy in another process finds its own


def get_backend(device: str | Device | None = None) -> Device:
    """Return the device ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``; the default one for None.

    ``"numpy"`` is another name of ``"cpu"``, ``"cupy"`` and ``"gpu"`` are others of ``"cuda"``.

    ``cuda`` that cannot work raises DeviceError with the reason. ``auto`` takes the GPU where a small piece of work
    runs on it and otherwise the CPU, and says why, once.

    >>> get_backend("cpu").name
    'cpu'
    """
    if device is None:
        return default_backend()
    if isinstance(device, Device):
        return device
    if isinstance(device, str):
        device = NAMES.get(device, device)
    if not isinstance(device, str) or not re.fullmatch(r"cpu|auto|cuda(:[0-9]+)?", device):
        raise ParameterError.expected("get_backend", "device", "'cpu', 'cuda', 'cuda:N' or 'auto'", repr(device))
    with _lock:
        if device == "auto":
            return _automatic()
        kind, _, index = device.partition(":")
        name = kind if kind == "cpu" else f"{kind}:{int(index or 0)}"
        if name not in _devices:
            _devices[name] = _factories[kind](int(index or 0))
        return _devices[name]


def has_driver() -> bool:
    """Whether NVIDIA's driver is here, so that a GPU that is not used is worth a word."""
    signs = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "C:/Windows/System32/nvcuda.dll")
    return any(os.path.exists(sign) for sign in signs)


def _automatic() -> Device:
    global _told_why
    try:
        return get_backend("cuda")
    except DeviceError as error:
        if not _told_why and has_driver():
            _told_why = True
            warnings.warn(f"device auto: using the CPU, because {error}", stacklevel=4)
        return get_backend("cpu")


def default_backend() -> Device:
    """Return what new tensors go to: this thread's choice, else the process's, else ``GPUCNN_DEVICE``, else the CPU."""
    global _process_default
    chosen: Device | None = getattr(_thread, "backend", None) or _process_default
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

    def __init__(self, device: str | Device) -> None:
        global _process_default
        self.backend = get_backend(device)
        with _lock:
            self._process_before, _process_default = _process_default, self.backend

    def __enter__(self) -> Device:
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


def backend_of(array: Any) -> Device:
    """Return the device that ``array`` lives on; MixedDeviceError for what is no array of a known device."""
    for device in list(_devices.values()):
        if device.owns(array):
            return device
    if type(array).__module__.startswith("numpy"):
        return get_backend("cpu")
    raise MixedDeviceError.expected(
        "backend_of", "array", "an array of a device in use", type(array).__name__, "use gpucnn.tensor(...) to make one"
    )


def get_array_module(x: Any) -> ModuleType:
    """Return the module, ``numpy`` or ``cupy``, that ``x`` is an array of: for scripts with array code of their own.

    x: an array, a Tensor, or anything else with an ``array``; what is no array of a device in use belongs to ``numpy``.

    >>> get_array_module([1.0]).__name__
    'numpy'
    """
    try:
        return backend_of(getattr(x, "array", x)).xp
    except MixedDeviceError:
        return get_backend("cpu").xp
