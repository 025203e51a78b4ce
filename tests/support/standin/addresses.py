"""What lies at the addresses of device memory that libraries are given: NCCL and cuBLAS get numbers, not arrays."""

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class _Memory:
    dtype: str
    size: int
    device: int
    owner: "weakref.ref[np.ndarray[Any, Any]]"


_memory: dict[int, _Memory] = {}


def note(pointer: Any, host: "np.ndarray[Any, Any]", device: int) -> None:
    """Remember what lies at an address of the device that is asked for."""
    _memory[pointer.ptr] = _Memory(str(host.dtype), host.size, device, weakref.ref(pointer.mem))


def view(pointer: int, count: int, dtype: str, device: int) -> "np.ndarray[Any, Any]":
    """Return the numbers at an address; ValueError if they are no such numbers, too few, or on another device."""
    if not count:
        return np.empty(0, dtype)  # the address may be anything
    found = _memory.get(pointer)
    owner = None if found is None else found.owner()
    if found is None or owner is None:
        raise ValueError(f"{pointer:#x} is no address of the device's memory")
    if found.device != device or found.dtype != dtype or found.size < count:
        theirs = f"{found.size} {found.dtype} on device {found.device}"
        raise ValueError(f"{count} {dtype} on device {device} at {pointer:#x}, where {theirs} lie")
    base = owner.ctypes.data
    flat = owner.reshape(-1, order="A").view(np.uint8)
    return flat[pointer - base : pointer - base + count * np.dtype(dtype).itemsize].view(dtype)
