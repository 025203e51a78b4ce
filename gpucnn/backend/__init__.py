"""The switch between array modules, and the kernels of each device."""

from gpucnn.backend.base import Array, Backend
from gpucnn.backend.generator import Generator, current_generator, default_generator, drawing_from, manual_seed
from gpucnn.backend.switch import backend_of, default_backend, get_backend, use
from gpucnn.backend.window import Window

__all__ = [
    "Array",
    "Backend",
    "Generator",
    "Window",
    "backend_of",
    "current_generator",
    "default_backend",
    "default_generator",
    "drawing_from",
    "get_backend",
    "manual_seed",
    "use",
]
