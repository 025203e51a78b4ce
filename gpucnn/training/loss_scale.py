"""Loss scaling for float16: a factor on the loss, adapted automatically, keeps small gradients representable."""

from __future__ import annotations

from gpucnn.autograd import Tensor
from gpucnn.backend import Backend, ops
from gpucnn.nn import Module
from gpucnn.optim import Optimizer

START, MOST = 2.0**16, 2.0**24
GROW_AFTER = 2000
"""Steps without an overflow after which the factor is doubled."""


class LossScale(Module):
    """A factor on the loss. Where a gradient overflows, the step is skipped and the factor halved; it doubles later.

    All of it stays on the device, and nothing waits for it. ``scale`` is the factor, ``good`` the number of steps since it
    changed, both 0-d float32 buffers. Source: Micikevicius et al. 2018.

    >>> import gpucnn
    >>> scale = LossScale(gpucnn.get_backend("cpu"))
    >>> scale(gpucnn.tensor(0.5)).item()
    32768.0
    """

    scale: Tensor
    good: Tensor

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.register_buffer("scale", Tensor(backend.asarray(START, "float32"), backend))
        self.register_buffer("good", Tensor(backend.asarray(0.0, "float32"), backend))

    def forward(self, loss: Tensor) -> Tensor:
        """Return the loss, in float32, times the factor: what ``backward`` starts from."""
        return loss.to("float32") * self.scale

    def finite(self, loss: Tensor, optimizer: Optimizer) -> Tensor:
        """Return whether the loss and every gradient are finite, a 0-d bool: only then the optimiser may step."""
        return loss.like(ops.all_finite(loss.backend, [loss.array, *optimizer.gradients()]))

    def adjust(self, finite: Tensor) -> None:
        """Update the factor for the next step from the result of ``finite``."""
        ops.adjust_scale(self.scale.backend, self.scale.array, self.good.array, finite.array, MOST, GROW_AFTER)
        self.scale.note_change()
        self.good.note_change()

    def state(self) -> dict[str, float]:
        """Return both numbers, exactly; reading them waits for the device."""
        return {"scale": float(self.scale), "good": float(self.good)}

    def load(self, scale: float, good: float) -> None:
        """Restore what ``state`` returned."""
        for buffer, value in ((self.scale, scale), (self.good, good)):
            ops.fill(buffer.backend, buffer.array, float(value))
            buffer.note_change()
