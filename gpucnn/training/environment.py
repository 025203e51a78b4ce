"""What a run ran on, for ``environment.json``."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import gpucnn
from gpucnn.backend import Backend


def versions() -> dict[str, str]:
    """Return the versions of Python, gpucnn and the packages it computes and saves with."""
    found = {"python": platform.python_version(), "gpucnn": gpucnn.__version__}
    for package in ("numpy", "safetensors", "cupy-cuda12x", "cupy-cuda13x", "cupy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe(backend: Backend) -> dict[str, Any]:
    """Return versions, platform, device and threads."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        **backend.describe(),
    }
