"""cupy.cuda for the stand-in: devices, streams that run everything at once, pools that hold nothing."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import numpy as np

from . import capture, devices
from .counters import streams, transfers
from .order import NULL, Clock
from .signatures import gap, missing, real_cupy

MEMORY_BYTES = 8 << 30
CUDA_VERSION = 13000
PROPERTIES = {
    "name": b"gpucnn stand-in (NumPy)",
    "totalGlobalMem": MEMORY_BYTES,
    "major": 9,
    "minor": 0,
    "multiProcessorCount": 132,
    "warpSize": 32,
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerMultiProcessor": 2048,
    "sharedMemPerBlock": 48 << 10,
    "sharedMemPerBlockOptin": 227 << 10,
    "regsPerBlock": 65536,
    "l2CacheSize": 50 << 20,
    "pciBusID": 0,
    "pciDeviceID": 0,
    "pciDomainID": 0,
}


def cuda_error(status: int) -> Exception:
    return real_cupy().cuda.runtime.CUDARuntimeError(status)  # type: ignore[no-any-return]


INVALID_DEVICE, INVALID_HANDLE = 101, 400
INVALID_VALUE, NOT_FOUND = "CUDA_ERROR_INVALID_VALUE: invalid argument", "CUDA_ERROR_NOT_FOUND: named symbol not found"


def driver_error(words: str) -> Exception:
    """The error of modules and launches, which go through the driver. Its constructor asks the driver for the words."""
    kind: type[Exception] = real_cupy().cuda.driver.CUDADriverError
    return kind.__new__(kind, words)


class Mirror:
    """A class of which CuPy has more: names that it lacks too, and names that only the stand-in lacks, are told apart."""

    mirrored: ClassVar[str]

    def __getattr__(self, name: str) -> Any:
        dotted = f"cupy.cuda.{self.mirrored}"
        if name.startswith("__") or not hasattr(getattr(real_cupy().cuda, self.mirrored), name):
            raise missing(dotted, name)
        raise gap(f"{dotted}.{name}")


class Device(Mirror):
    mirrored = "Device"

    def __init__(self, device: Any = None) -> None:
        self.id = devices.current() if device is None else int(device)

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Self:
        outer = devices.current()
        self.use()
        devices.entered().append(outer)
        return self

    def __exit__(self, *args: object) -> None:
        devices.make_current(devices.entered().pop())

    def use(self) -> None:
        self._exists()
        devices.make_current(self.id)

    def _exists(self) -> None:
        if not 0 <= self.id < devices.count:
            raise cuda_error(INVALID_DEVICE)

    def synchronize(self) -> None:
        self._exists()
        transfers.waits += 1
        streams.host_waits()

    @property
    def compute_capability(self) -> str:
        self._exists()
        return f"{PROPERTIES['major']}{PROPERTIES['minor']}"

    @property
    def mem_info(self) -> tuple[int, int]:
        self._exists()
        return (MEMORY_BYTES, MEMORY_BYTES)

    @property
    def pci_bus_id(self) -> str:
        return "0000:00:00.0"


class MemoryPointer(Mirror):
    """Where an array's first element lies: an address in host memory, and what keeps it alive."""

    mirrored = "MemoryPointer"

    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self.buffer, self.offset = mem, mem, offset

    @classmethod
    def of(cls, array: "np.ndarray[Any, Any]") -> "MemoryPointer":
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        return cls(owner, array.ctypes.data - owner.ctypes.data)

    @property
    def ptr(self) -> int:
        return int(self.buffer.ctypes.data) + self.offset

    @property
    def device(self) -> Device:
        return Device(0)

    device_id = 0

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> "MemoryPointer":
        return MemoryPointer(self.buffer, self.offset + offset)

    def memset(self, value: int, size: int) -> None:
        ctypes.memset(self.ptr, value, size)

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        self.memset(value, size)

    def copy_from_device(self, src: "MemoryPointer", size: int) -> None:
        ctypes.memmove(self.ptr, src.ptr, size)

    def copy_from_device_async(self, src: "MemoryPointer", size: int, stream: Any = None) -> None:
        self.copy_from_device(src, size)


class Event(Mirror):
    mirrored = "Event"

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.time, self.is_timed = 0.0, not disable_timing
        self.clock: Clock = {}  # an event that was never recorded is done

    done = True

    def record(self, stream: "Stream | None" = None) -> None:
        self.time = time.perf_counter()
        self.clock = streams.record((stream or _current.stream).key)

    def synchronize(self) -> None:
        transfers.waits += 1
        streams.host_waits(self.clock)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds, of the host's clock."""
    if not (start_event.is_timed and end_event.is_timed):
        raise cuda_error(INVALID_HANDLE)
    return (end_event.time - start_event.time) * 1e3


class _Current(threading.local):
    """What each thread works with, as in CuPy."""

    def __init__(self) -> None:
        self.stream: Stream = Stream.null
        self.allocator: Callable[[int], MemoryPointer] | None = None


class Stream(Mirror):
    mirrored = "Stream"
    null: ClassVar["Stream"]
    ptds: ClassVar["Stream"]

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        self.is_non_blocking = non_blocking
        self.priority = priority or 0
        self.ptr = 0 if null else id(self)
        self.device_id = 0
        self.key = NULL if null or ptds else streams.new_stream(blocking=not non_blocking)
        self._outer: list[Stream] = []

    done = True

    def __enter__(self) -> Self:
        self._outer.append(_current.stream)
        _current.stream = self
        return self

    def __exit__(self, *args: object) -> None:
        _current.stream = self._outer.pop()

    def use(self) -> "Stream":
        _current.stream = self
        return self

    def synchronize(self) -> None:
        transfers.waits += 1
        streams.host_waits_for_stream(self.key)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        streams.wait(self.key, event.clock)

    # Capture: of this thread's current stream only, as everywhere here.

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise cuda_error(capture.UNSUPPORTED)  # the null stream
        if capture.current.graph is not None or _current.stream is not self:
            raise cuda_error(capture.ILLEGAL)
        capture.current.graph = capture.Graph()

    def end_capture(self) -> capture.Graph:
        graph, capture.current.graph = capture.current.graph, None
        if graph is None:
            raise cuda_error(capture.ILLEGAL)
        if not graph._valid:
            raise cuda_error(capture.INVALIDATED)
        return graph

    def is_capturing(self) -> bool:
        return capture.current.graph is not None and _current.stream is self


Stream.null = Stream(null=True)
Stream.ptds = Stream(ptds=True)
_current = _Current()


def get_current_stream(device_id: int = -1) -> Stream:
    return _current.stream


class MemoryPool(Mirror):
    """Has the methods; NumPy's allocator does the work, so it holds and counts nothing."""

    mirrored = "MemoryPool"

    def __init__(self, allocator: Any = None) -> None:
        self._limit = 0
        self.freed_on: list[int] = []
        """The devices that were current when its unused memory was freed."""

    def malloc(self, size: int) -> MemoryPointer:
        return MemoryPointer(np.full(size, 0xFF, np.uint8), 0)

    def free_all_blocks(self, stream: Any = None) -> None:
        """Nothing but to note where: no blocks are kept."""
        self.freed_on.append(devices.current())

    def used_bytes(self) -> int:
        return 0

    free_bytes = total_bytes = n_free_blocks = used_bytes

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._limit = size if size is not None else int((fraction or 0.0) * MEMORY_BYTES)

    def get_limit(self) -> int:
        return self._limit


_default_pool = MemoryPool()


def get_default_memory_pool() -> MemoryPool:
    return _default_pool


def get_allocator() -> Callable[[int], MemoryPointer]:
    return _current.allocator or _default_pool.malloc


def set_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> None:
    _current.allocator = allocator


@contextlib.contextmanager
def using_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> Iterator[None]:
    outer = _current.allocator
    _current.allocator = allocator
    try:
        yield
    finally:
        _current.allocator = outer


def alloc(size: int) -> MemoryPointer:
    return get_allocator()(size)


def is_available() -> bool:
    return True


def get_device_id() -> int:
    return devices.current()


# cupy.cuda.runtime


def getDeviceCount() -> int:
    return devices.count


def getDevice() -> int:
    return devices.current()


def setDevice(device: int) -> None:
    Device(device).use()


def getDeviceProperties(device: int) -> dict[str, Any]:
    Device(device)._exists()
    return dict(PROPERTIES)


def memGetInfo() -> tuple[int, int]:
    return Device(0).mem_info


def driverGetVersion() -> int:
    return CUDA_VERSION


runtimeGetVersion = driverGetVersion


def deviceSynchronize() -> None:
    transfers.waits += 1
    streams.host_waits()


RUNTIME = (getDeviceCount, getDevice, setDevice, getDeviceProperties, memGetInfo, driverGetVersion, deviceSynchronize)
CUDA = (capture.Graph, Device, MemoryPointer, Event, get_elapsed_time, Stream, get_current_stream, MemoryPool, get_allocator,
        set_allocator, using_allocator, alloc, is_available, get_device_id)  # fmt: skip
