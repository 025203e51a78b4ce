"""Fixtures of the training tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: that and when files are synced is tested in test_checkpoint.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
