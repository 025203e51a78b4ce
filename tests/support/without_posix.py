"""A plugin that takes away what Windows lacks: ``pytest -p without_posix``. Tests marked ``posix`` are left out then."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import pytest


def refuse(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.EINVAL, "a required privilege is not held by the client")


def pytest_configure() -> None:
    sys.modules["fcntl"] = None  # type: ignore[assignment]
    os.symlink = refuse


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    dropped = [item for item in items if item.get_closest_marker("posix")]
    items[:] = [item for item in items if not item.get_closest_marker("posix")]
    config.hook.pytest_deselected(items=dropped)
