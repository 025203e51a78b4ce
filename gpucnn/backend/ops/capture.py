"""Capture: a step is recorded once and replayed."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.device import Device
from gpucnn.backend.dispatch import operation


@operation()
def new_graph(device: Device) -> Any:
    """Return an object that captures a step and replays it, or None on a device where capture gains nothing."""
    return None
