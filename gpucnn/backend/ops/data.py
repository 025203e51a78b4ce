"""Moving, gathering and normalising batches of data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation


@operation()
def stream(device: Device, batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Array, ...]]:
    """Yield each tuple of host arrays as arrays of this device, valid until the next tuple is requested."""
    for batch in batches:
        yield tuple(device.asarray(array) for array in batch)


@operation()
def gather(device: Device, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> Array:
    """Return ``images[indices] * scale + shift`` as (B, C, H, W) of ``dtype``. scale and shift (C,) may be wider."""
    y = images[indices].astype(scale.dtype) * scale[:, None, None] + shift[:, None, None]
    return y.astype(dtype, copy=False)


@operation()
def gather_next(
    device: Device, images: Array, labels: Array, order: Array, seen: Array, count: int,
    scale: Array, shift: Array, dtype: Any,
) -> tuple[Array, Array]:  # fmt: skip
    """Return ``gather`` of the ``count`` images after the first ``seen`` of ``order``, and their labels.

    seen: (1,) float64, which stays on the device.
    """
    chosen = order[seen.astype(order.dtype) + device.xp.arange(count)]
    return gather(device, images, chosen, scale, shift, dtype), labels[chosen]
