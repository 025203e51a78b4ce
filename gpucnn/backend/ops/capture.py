"""A step captured once and replayed."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.device import Device
from gpucnn.backend.dispatch import operation


@operation()
def new_graph(device: Device) -> Any:
    """Return what captures a step and replays it, or None where a step is as fast without."""
    return None
