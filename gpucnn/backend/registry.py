"""The registry of devices, and the choice of one. Nothing above ``backend`` names numpy or cupy for tensor work."""

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
    """Register a kind of device for ``get_backend``. ``factory(index)`` makes the device with that index."""
    _factories[kind] = factory
    copyreg.pickle(device, lambda made: (get_backend, (made.name,)))  # a name, found again elsewhere


def get_backend(device: str | Device | None = None) -> Device:
    """Return the device ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``; the default device for None.

    ``"numpy"`` is another name for ``"cpu"``; ``"cupy"`` and ``"gpu"`` are other names for ``"cuda"``.

    ``cuda`` raises DeviceError with the reason if the GPU cannot compute. ``auto`` returns the GPU if a small test
    computation succeeds on it, and otherwise the CPU, with one warning that says why.

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
    """Whether NVIDIA's driver is installed, so that an unused GPU deserves a warning."""
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
    """Return the device of new tensors: the thread's choice, else the process's, else ``GPUCNN_DEVICE``, else the CPU."""
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
        with _lock:  # the choice is for this thread: restore the process's
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
    """Return the device that ``array`` lives on; MixedDeviceError if it is not an array of a known device."""
    for device in list(_devices.values()):
        if device.owns(array):
            return device
    if type(array).__module__.startswith("numpy"):
        return get_backend("cpu")
    raise MixedDeviceError.expected(
        "backend_of", "array", "an array of a device in use", type(array).__name__, "use gpucnn.tensor(...) to make one"
    )


def get_array_module(x: Any) -> ModuleType:
    """Return the array module of ``x``, ``numpy`` or ``cupy``, for scripts that compute on arrays themselves.

    x: an array, a Tensor, or any object with an ``array``. The answer is ``numpy`` if it is not an array of a device in use.

    >>> get_array_module([1.0]).__name__
    'numpy'
    """
    try:
        return backend_of(getattr(x, "array", x)).xp
    except MixedDeviceError:
        return get_backend("cpu").xp
