"""Devices, the operations on their arrays, and each device's implementations of the operations."""

from gpucnn.backend import cpu, cuda, ops  # imported to register devices and implementations
from gpucnn.backend.device import Array, Device
from gpucnn.backend.geometry import Window
from gpucnn.backend.random import Generator, current_generator, default_generator, drawing_from, manual_seed
from gpucnn.backend.registry import backend_of, default_backend, get_array_module, get_backend, use

Backend = Device
"""The name in version 0.1.0."""

__all__ = [
    "Array",
    "Backend",
    "Device",
    "Generator",
    "Window",
    "backend_of",
    "cpu",
    "cuda",
    "current_generator",
    "default_backend",
    "default_generator",
    "drawing_from",
    "get_array_module",
    "get_backend",
    "manual_seed",
    "ops",
    "use",
]
