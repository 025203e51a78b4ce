"""Capture: a step is recorded once and replayed."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.device import Device
from gpucnn.backend.dispatch import operation


@operation()
def new_graph_memory(device: Device) -> Any:
    """Return the memory that the graphs of one captured function share, or None on a device that captures nothing."""
    return None


@operation()
def new_graph(device: Device, memory: Any) -> Any:
    """Return an object that captures a step and replays it, or None on a device where capture gains nothing.

    memory: what ``new_graph_memory`` returned. The graphs that share it must not run at the same time.
    """
    return None
