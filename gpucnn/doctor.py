"""Report what this machine has for gpucnn, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from typing import Any

from gpucnn.backend import get_backend
from gpucnn.errors import GpucnnError, how_to_add
from gpucnn.training import environment

EXTRAS = {
    "pooch": ("pooch", "download", "data sets by name"),
    "matplotlib": ("matplotlib", "plots", "curves that grow while a network learns, in a notebook"),
    "resvg_py": ("resvg_py", "png", "the pictures of a report as PNG files"),
    "tensorboardX": ("tensorboardX", "tensorboard", "gpucnn train --tensorboard"),
}
GPU_EXTRAS = {"cuDNN": ("cudnn", "cudnn", "convolutions in TF32 by cuDNN")}
"""What is of use only where there is a GPU."""


def examine(warmup: bool = False, verify: bool = False) -> dict[str, Any]:
    """Return versions, CPU, memory, the GPU or why there is none, and missing extras with the command that adds each.

    warmup: also compile the GPU kernels, which CuPy keeps on disk, and report the seconds it took.
    verify: also compare every family of GPU kernels with the reference, on many cases, and report what is wrong.
    """
    cpu = get_backend("cpu").describe()
    report: dict[str, Any] = {
        "versions": environment.versions(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": cpu["threads"],
        "blas": cpu["blas"],
        "compiled": cpu["kernels"],
        "memory_bytes": _memory(),
    }
    try:
        backend = get_backend("cuda")
        report["cuda"] = {"works": True, **backend.describe()}
        if warmup:
            start = time.perf_counter()
            backend.warm_up()
            report["cuda"]["warmup_seconds"] = round(time.perf_counter() - start, 2)
        if verify:
            report["cuda"]["faults"] = backend.verify()
    except GpucnnError as error:
        report["cuda"] = {"works": False, "why": error.problem}
    report["missing"] = {
        package: f"{how_to_add(extra)} ({use})"
        for package, (module, extra, use) in (EXTRAS | (GPU_EXTRAS if report["cuda"]["works"] else {})).items()
        if importlib.util.find_spec(module) is None
    }
    return report


def _memory() -> int | None:
    """Return the bytes of physical memory, or None where the system does not report them."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
