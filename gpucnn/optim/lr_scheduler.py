"""Learning rates that change while training goes on: call ``scheduler.step()`` after each ``optimizer.step()``."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.errors import ParameterError
from gpucnn.optim.optimizer import Optimizer, check_number


class OneCycleLR:
    """Rises from max_lr / div_factor to max_lr in the first pct_start of the steps, then falls to almost nothing.

    The first part ends at max_lr, the second at max_lr / (div_factor * final_div_factor), both along half a cosine;
    momentum (Adam's first beta) goes the other way, from max_momentum to base_momentum and back.
    Raises ParameterError for numbers out of range and for a step beyond total_steps.
    Source: Smith & Topin 2018, "Super-convergence", in PyTorch's form.

    >>> import gpucnn
    >>> from gpucnn import nn, optim
    >>> optimizer = optim.Adam(nn.Linear(2, 1).parameters())
    >>> scheduler = OneCycleLR(optimizer, max_lr=0.01, total_steps=10)
    >>> round(optimizer.param_groups[0]["lr"], 9)
    0.0004
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        if not isinstance(total_steps, int) or total_steps < 1:
            raise ParameterError.expected("OneCycleLR", "total_steps", "a positive int", repr(total_steps))
        check_number(max_lr, "OneCycleLR", "max_lr", 0, None)
        check_number(pct_start, "OneCycleLR", "pct_start", 0, 1)
        self.optimizer, self.max_lr, self.total_steps, self.pct_start = optimizer, max_lr, total_steps, pct_start
        self.cycle_momentum = cycle_momentum
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        self.first_lr = max_lr / div_factor
        self.last_lr = self.first_lr / final_div_factor
        self.steps = 0
        self._apply()

    def values(self, step: int) -> tuple[float, float]:
        """Return (learning rate, momentum) at a step from 0 to total_steps - 1."""
        peak, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if step <= peak:
            part = step / peak
            lr, momentum = (self.first_lr, self.max_lr), (self.max_momentum, self.base_momentum)
        else:
            part = (step - peak) / (last - peak) if last > peak else 1.0
            lr, momentum = (self.max_lr, self.last_lr), (self.base_momentum, self.max_momentum)
        return _half_cosine(*lr, part), _half_cosine(*momentum, part)

    def step(self) -> None:
        """Move to the next step. After the last one the values stay as they are."""
        if self.steps > self.total_steps:
            raise ParameterError.expected("OneCycleLR", "step", f"at most {self.total_steps} steps", self.steps + 1)
        self.steps += 1
        self._apply()

    def _apply(self) -> None:
        lr, momentum = self.values(min(self.steps, self.total_steps - 1))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if self.cycle_momentum and "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif self.cycle_momentum and group.get("momentum"):
                group["momentum"] = momentum

    def state_dict(self) -> dict[str, Any]:
        """Return {"steps"}: all that changes."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.steps = int(state["steps"])
        self._apply()


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
