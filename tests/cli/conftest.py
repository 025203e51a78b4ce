"""Fixtures of the tests of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from runs import write_npz


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: that and when files are synced is tested in test_checkpoint.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set of drawn digits, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("GPUCNN_DEVICE", "GPUCNN_DATA"):
        monkeypatch.delenv(name, raising=False)
    return write_npz(tmp_path / "small.npz")
