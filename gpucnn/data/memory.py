"""How much memory the pixels of a data set may take."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gpucnn.errors import UsageError, shortened

VARIABLE = "GPUCNN_DATA_MEMORY"
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
UNKNOWN = 2**30
"""Assumed free memory if the system does not report it."""

CGROUP = Path("/sys/fs/cgroup")


def budget() -> int:
    """Return the bytes that decoded images may take: ``GPUCNN_DATA_MEMORY`` ("500M", "2G"), or half of what is free.

    UsageError if the variable is no number of bytes.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return free() // 2
    found = re.fullmatch(r"(\d{1,15})\s*([kmgt]?)i?b?", text.lower())
    if found is None:
        raise UsageError.expected("environment", VARIABLE, "bytes, such as 500M or 2G", repr(shortened(text, 40)))
    return int(found[1]) * UNITS[found[2]]


def free() -> int:
    """Return the bytes of memory that are free for this process: of the machine, its control group and its limit."""
    found = [_of_machine(), _of_group(), _of_limit()]
    return max(min((size for size in found if size is not None), default=UNKNOWN), 0)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _of_group() -> int | None:
    try:
        most, used = ((CGROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return None if most == "max" else int(most) - int(used)
    except (OSError, ValueError):
        return None


def _of_limit() -> int | None:
    try:
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
    return None if most == resource.RLIM_INFINITY else most - used
