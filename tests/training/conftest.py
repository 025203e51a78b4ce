"""Fixtures of the training tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kept_runs import KilledError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: that and when files are synced is tested in test_checkpoint.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let every change to the disk from number ``moment`` on raise KilledError."""
    names = ("mkdir", "rename", "replace", "unlink", "rmdir", "symlink")
    with monkeypatch.context() as patch:

        def start(moment: int) -> None:
            count = 0

            def counted(real: Callable[..., Any]) -> Callable[..., Any]:
                def change(*arguments: Any, **options: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count >= moment > 0:
                        raise KilledError
                    return real(*arguments, **options)

                return change

            for name, real in reals.items():
                patch.setattr(os, name, counted(real))

        reals = {name: getattr(os, name) for name in names}
        yield start
