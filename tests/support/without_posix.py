"""A plugin that takes away what Windows lacks, ``fcntl`` and symbolic links: ``pytest -p without_posix``.

Tests that make or read links themselves are skipped; what gpucnn does is refused as Windows refuses it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = str(Path(__file__).parents[1])
readlink = os.readlink


def asked_by_a_test() -> bool:
    """Whether a test called, by way of ``pathlib`` or itself, and neither gpucnn nor pytest."""
    frame = sys._getframe(2)
    while frame.f_back is not None and Path(frame.f_code.co_filename).name in ("pathlib.py", "_local.py"):
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(TESTS)


def refuse(*arguments: Any, **options: Any) -> None:
    if asked_by_a_test():
        pytest.skip("makes a symbolic link")
    raise OSError(errno.EINVAL, "a required privilege is not held by the client")


def read(path: Any, **options: Any) -> Any:
    if not os.path.islink(path) and asked_by_a_test():
        pytest.skip("reads a symbolic link")
    return readlink(path, **options)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("posix"):
        pytest.skip("needs symbolic links or fcntl itself, or in a process of its own")


def pytest_configure() -> None:
    sys.modules["fcntl"] = None  # type: ignore[assignment]
    changes: dict[str, Callable[..., Any]] = {"symlink": refuse, "readlink": read}
    for name, function in changes.items():
        setattr(os, name, function)
