"""How data reaches the kernels, as part of every backend: moved batch by batch, gathered, normalised; answers counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

Array = Any


class Feeding:
    """Data sets on the device, batches from the host, and the sums over an epoch."""

    xp: ModuleType
    ran: Counter[str]

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes of data may be kept on the device, next to what works on them."""
        return True

    def stream(self, batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Array, ...]]:
        """Yield each tuple of host arrays as arrays of this device; they hold until the next tuple is asked for."""
        for batch in batches:
            yield tuple(self.xp.asarray(array) for array in batch)

    def gather(self, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> Array:
        """Return ``images[indices] * scale + shift`` as (B, C, H, W) of ``dtype``; scale and shift (C,) may be wider."""
        self.ran["gather.reference"] += 1
        y = images[indices].astype(scale.dtype) * scale[:, None, None] + shift[:, None, None]
        return y.astype(dtype, copy=False)

    def gather_next(
        self, images: Array, labels: Array, order: Array, seen: Array, count: int,
        scale: Array, shift: Array, dtype: Any,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return ``gather`` of the ``count`` images after the first ``seen`` of ``order``, and their labels.

        seen: (1,) float64, which stays on the device; see ``add_totals``.
        """
        self.ran["gather_next.reference"] += 1
        chosen = order[seen.astype(order.dtype) + self.xp.arange(count)]
        return self.gather(images, chosen, scale, shift, dtype), labels[chosen]

    def add_totals(self, sums: Array, loss: Array, logits: Array, labels: Array) -> None:
        """Add a batch, of mean ``loss``, to ``sums`` (4,) float64: sum of losses, right answers, images; the last loss."""
        self.ran["add_totals.reference"] += 1
        count = len(labels)
        sums[0] += loss.astype(sums.dtype) * count
        sums[1] += (logits.argmax(1) == labels).sum()
        sums[2] += count
        sums[3] = loss
