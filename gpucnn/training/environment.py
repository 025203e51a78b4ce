"""The environment of a run, for ``environment.json``."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gpucnn.backend import Backend
from gpucnn.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of Python, gpucnn and the packages it computes and saves with."""
    found = {"python": platform.python_version(), "gpucnn": __version__}
    for package in ("numpy", "safetensors", "cupy-cuda12x", "cupy-cuda13x", "cupy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor_name() -> str:
    """Return the processor's name, where the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def current_commit() -> str | None:
    """Return the commit of the repository that the current folder is in; None outside one, or without git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return found.stdout.strip() or None


def command(arguments: Sequence[str]) -> str:
    """Return how a program was started: the command line of gpucnn by its name, other programs by theirs, without a folder.

    >>> command(["/usr/lib/python3/site-packages/gpucnn/__main__.py", "train", "--out", "a b"])
    "gpucnn train --out 'a b'"
    """
    program = Path(arguments[0])
    own = program.stem == "gpucnn" or program.parts[-2:] == ("gpucnn", "__main__.py")
    return shlex.join(["gpucnn" if own else program.name, *arguments[1:]])


def describe(backend: Backend) -> dict[str, Any]:
    """Return versions, platform, processor, device, threads, and when, how and at which commit this program was started."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(sys.argv),
        **({} if (commit := current_commit()) is None else {"commit": commit}),
        **backend.describe(),
    }


def decides_bits(backend: Backend) -> dict[str, Any]:
    """Return what the last bits of a run's results depend on besides its settings, as JSON values."""
    device = backend.describe()
    found = {"device": backend.name, "processor": processor_name()}
    found |= {key: device[key] for key in ("gpu", "cuda", "kernels", "blas_threads") if key in device}
    if "blas" in device:
        found["blas"] = ", ".join(device["blas"])
    return found | {name: version for name, version in versions().items() if name not in ("python", "safetensors")}
