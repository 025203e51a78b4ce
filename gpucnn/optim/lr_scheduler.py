"""Learning-rate schedules: call ``scheduler.step()`` after each ``optimizer.step()``."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.checks import check_count
from gpucnn.errors import CheckpointError, ParameterError
from gpucnn.optim.optimizer import Optimizer, check_number


class LRScheduler:
    """Base class of all schedules. Override ``factor`` (or ``lr``) to write your own.

    The constructor and every ``step()`` set ``optimizer.param_groups[i]["lr"]`` to the group's initial learning rate times
    ``factor(steps)``. If the rate was changed in between, by hand or by a second schedule, the schedule continues from the
    new rate, as in PyTorch: two schedules multiply.

    >>> from gpucnn import nn, optim
    >>> class InverseTime(LRScheduler):
    ...     def factor(self, step):
    ...         return 1 / (1 + step)
    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> schedule = InverseTime(optimizer)
    >>> schedule.step()
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    needs_measure = False
    """Whether ``step`` is called once per epoch with a metric, instead of after each update."""

    def __init__(self, optimizer: Optimizer, base_lrs: list[float] | None = None) -> None:
        _check_optimizer(optimizer, type(self).__name__)
        self.optimizer = optimizer
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups] if base_lrs is None else base_lrs
        self.steps = 0
        self._apply()

    def factor(self, step: int) -> float:
        """Return the factor of the initial learning rate after ``step`` steps."""
        raise NotImplementedError

    def lr(self, step: int, base: float) -> float:
        """Return a group's learning rate after ``step`` steps. It must be linear in ``base``."""
        return base * self.factor(step)

    def step(self) -> None:
        """Advance by one step."""
        self._take_over_changes()
        self.steps += 1
        self._apply()

    def _apply(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.lr(self.steps, base)
        self._note()

    def _note(self) -> None:
        """Remember the current learning rates, to detect changes from outside."""
        self._known_lrs = [group["lr"] for group in self.optimizer.param_groups]

    def _take_over_changes(self) -> None:
        """Recompute the base rates of learning rates changed from outside, so that the schedule continues from them."""
        for i, (group, known) in enumerate(zip(self.optimizer.param_groups, self._known_lrs, strict=True)):
            if group["lr"] != known:
                offset = self.lr(self.steps, 0.0)
                slope = self.lr(self.steps, 1.0) - offset
                self.base_lrs[i] = (group["lr"] - offset) / slope if slope else float(group["lr"])
        self._note()

    def state_dict(self) -> dict[str, Any]:
        """Return {"steps", "base_lrs", "lrs"}; "lrs" are the current learning rates."""
        self._take_over_changes()
        return {"steps": self.steps, "base_lrs": list(self.base_lrs), "lrs": list(self._known_lrs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned, including the learning rates."""
        base_lrs = [float(lr) for lr in state.get("base_lrs", self.base_lrs)]
        if len(base_lrs) != len(self.base_lrs):
            raise CheckpointError.expected(
                f"{type(self).__name__}.load_state_dict", "base_lrs", f"{len(self.base_lrs)} numbers", len(base_lrs)
            )
        self.steps, self.base_lrs = int(state["steps"]), base_lrs
        self._apply()
        for group, lr in zip(self.optimizer.param_groups, state.get("lrs", ()), strict=False):
            group["lr"] = float(lr)
        self._note()


def _check_optimizer(optimizer: Any, where: str) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ParameterError.expected(where, "optimizer", "an Optimizer", type(optimizer).__name__)


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


class OneCycleLR(LRScheduler):
    """Increase from max_lr / div_factor to max_lr in the first pct_start of the steps, then decrease to almost 0.

    The first phase ends at max_lr, the second at max_lr / (div_factor * final_div_factor). Both follow half a cosine.
    Momentum (Adam's first beta) does the opposite, from max_momentum to base_momentum and back.
    Raises ParameterError for values out of range and for a step beyond total_steps.
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
        _check_optimizer(optimizer, "OneCycleLR")
        total_steps = check_count(total_steps, "OneCycleLR", "total_steps")
        check_number(max_lr, "OneCycleLR", "max_lr", 0, None)
        for key, value in (("pct_start", pct_start), ("base_momentum", base_momentum), ("max_momentum", max_momentum)):
            check_number(value, "OneCycleLR", key, 0, 1)
        for key, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            check_number(value, "OneCycleLR", key, 0, None)
            if value == 0:
                raise ParameterError.expected("OneCycleLR", key, "a number above 0", value)
        self.max_lr, self.total_steps, self.pct_start = max_lr, total_steps, pct_start
        self.cycle_momentum = cycle_momentum
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        super().__init__(optimizer, [float(max_lr)] * len(optimizer.param_groups))

    def lr(self, step: int, base: float) -> float:
        first = base / self.div_factor
        rises, part = self._part(step)
        return _half_cosine(first, base, part) if rises else _half_cosine(base, first / self.final_div_factor, part)

    def momentum(self, step: int) -> float:
        """Return the momentum after ``step`` steps."""
        rises, part = self._part(step)
        low, high = self.base_momentum, self.max_momentum
        return _half_cosine(high, low, part) if rises else _half_cosine(low, high, part)

    def values(self, step: int) -> tuple[float, float]:
        """Return (learning rate, momentum) at a step from 0 to total_steps - 1, for a peak rate of max_lr."""
        return self.lr(step, self.max_lr), self.momentum(step)

    def _part(self, step: int) -> tuple[bool, float]:
        """Return whether a step is in the first phase, and the fraction of its phase that is done; 1 after the last step."""
        step, peak, last = min(step, self.total_steps - 1), self.pct_start * self.total_steps - 1, self.total_steps - 1
        if step <= peak and peak > 0:
            return True, step / peak
        return False, (step - peak) / (last - peak) if last > peak else 1.0

    def step(self) -> None:
        """Advance by one step. The last step keeps the values."""
        if self.steps >= self.total_steps:
            raise ParameterError.expected("OneCycleLR", "step", f"at most {self.total_steps} steps", self.steps + 1)
        super().step()

    def _apply(self) -> None:
        super()._apply()
        momentum = self.momentum(self.steps)
        for group in self.optimizer.param_groups:
            if self.cycle_momentum and "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif self.cycle_momentum and group.get("momentum"):
                group["momentum"] = momentum


class StepLR(LRScheduler):
    """Multiply the learning rate by gamma every step_size steps.

    >>> from gpucnn import nn, optim
    >>> scheduler = StepLR(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), step_size=2, gamma=0.5)
    >>> [scheduler.factor(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = check_count(step_size, "StepLR", "step_size")
        check_number(gamma, "StepLR", "gamma", 0, None)
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return float(self.gamma ** (step // self.step_size))


class MultiStepLR(LRScheduler):
    """Multiply the learning rate by gamma at each milestone.

    >>> from gpucnn import nn, optim
    >>> scheduler = MultiStepLR(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), [1, 3], gamma=0.5)
    >>> [scheduler.factor(step) for step in range(4)]
    [1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, milestones: list[int], gamma: float = 0.1) -> None:
        self.milestones = sorted(check_count(step, "MultiStepLR", "milestones") for step in milestones)
        check_number(gamma, "MultiStepLR", "gamma", 0, None)
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return float(self.gamma ** sum(step >= milestone for milestone in self.milestones))


class ExponentialLR(LRScheduler):
    """Multiply the learning rate by gamma at every step.

    >>> from gpucnn import nn, optim
    >>> scheduler = ExponentialLR(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), gamma=0.5)
    >>> [scheduler.factor(step) for step in range(3)]
    [1.0, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        check_number(gamma, "ExponentialLR", "gamma", 0, None)
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return float(self.gamma**step)


class CosineAnnealingLR(LRScheduler):
    """Decrease along half a cosine to eta_min in T_max steps (then back up in T_max more). Source: Loshchilov & Hutter 2017.

    >>> from gpucnn import nn, optim
    >>> scheduler = CosineAnnealingLR(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), T_max=2)
    >>> [round(scheduler.lr(step, 1.0), 6) for step in range(3)]
    [1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = check_count(T_max, "CosineAnnealingLR", "T_max")
        check_number(eta_min, "CosineAnnealingLR", "eta_min", 0, None)
        self.eta_min = eta_min
        super().__init__(optimizer)

    def lr(self, step: int, base: float) -> float:
        return _half_cosine(base, self.eta_min, step / self.T_max)


class PolynomialLR(LRScheduler):
    """Multiply the learning rate by (1 - step / total_iters)^power, and by 0 after total_iters steps.

    >>> from gpucnn import nn, optim
    >>> scheduler = PolynomialLR(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), total_iters=4, power=2.0)
    >>> [scheduler.factor(step) for step in (0, 2, 4, 5)]
    [1.0, 0.25, 0.0, 0.0]
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0) -> None:
        self.total_iters = check_count(total_iters, "PolynomialLR", "total_iters")
        check_number(power, "PolynomialLR", "power", 0, None)
        self.power = power
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return float((1 - min(step, self.total_iters) / self.total_iters) ** self.power)


class LinearLR(LRScheduler):
    """Linear warm-up: the factor goes from start_factor to end_factor in total_iters steps. Source: Goyal et al. 2017.

    >>> from gpucnn import nn, optim
    >>> scheduler = LinearLR(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), start_factor=0.5, total_iters=2)
    >>> [scheduler.factor(step) for step in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        check_number(start_factor, "LinearLR", "start_factor", 0, None)
        check_number(end_factor, "LinearLR", "end_factor", 0, None)
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = check_count(total_iters, "LinearLR", "total_iters")
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        part = min(step, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * part


class SequentialLR(LRScheduler):
    """Run schedules one after another, for example warm-up, then cosine. Each counts its steps from its own milestone.

    >>> from gpucnn import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> warm, fall = LinearLR(optimizer, 0.5, total_iters=2), ExponentialLR(optimizer, 0.5)
    >>> scheduler = SequentialLR(optimizer, [warm, fall], [2])
    >>> [scheduler.lr(step, 1.0) for step in range(5)]
    [0.5, 0.75, 1.0, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int]) -> None:
        if not schedulers or len(schedulers) != len(milestones) + 1:
            raise ParameterError.expected(
                "SequentialLR", "milestones", "one fewer than schedulers", f"{len(milestones)} for {len(schedulers)}"
            )
        self.schedulers = list(schedulers)
        self.milestones = [check_count(step, "SequentialLR", "milestones") for step in milestones]
        if any(scheduler.needs_measure for scheduler in self.schedulers):
            raise ParameterError.expected(
                "SequentialLR", "schedulers", "schedules that count steps", "one that needs a metric"
            )
        super().__init__(optimizer, list(self.schedulers[0].base_lrs))

    def lr(self, step: int, base: float) -> float:
        number = sum(step >= milestone for milestone in self.milestones)
        begin = self.milestones[number - 1] if number else 0
        return self.schedulers[number].lr(step - begin, base)


class ReduceLROnPlateau(LRScheduler):
    """Multiply by factor when a metric has not improved for more than patience epochs: ``scheduler.step(loss)``.

    An improvement is lower (mode "min") or higher ("max") than the best by threshold, relative to the best ("rel") or
    absolute ("abs"). A metric that is not finite is never an improvement.

    >>> from gpucnn import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    >>> scheduler.step(1.0); scheduler.step(1.0)
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        where = "ReduceLROnPlateau"
        if mode not in ("min", "max"):
            raise ParameterError.expected(where, "mode", "'min' or 'max'", repr(mode))
        if threshold_mode not in ("rel", "abs"):
            raise ParameterError.expected(where, "threshold_mode", "'rel' or 'abs'", repr(threshold_mode))
        check_number(factor, where, "factor", 0, 1)
        for key, value in (
            ("patience", patience),
            ("threshold", threshold),
            ("cooldown", cooldown),
            ("min_lr", min_lr),
        ):
            check_number(value, where, key, 0, None)
        self.mode, self.patience = mode, patience
        self.factor = factor  # type: ignore[assignment,method-assign]  # PyTorch's name
        self.threshold, self.threshold_mode, self.cooldown = threshold, threshold_mode, cooldown
        self.min_lr, self.eps = min_lr, eps
        self.best: float | None = None
        self.bad_steps = self.resting = 0
        super().__init__(optimizer)

    def lr(self, step: int, base: float) -> float:
        return base

    def _better(self, value: float) -> bool:
        if not math.isfinite(value) or self.best is None:
            return math.isfinite(value)
        margin = self.threshold * (abs(self.best) if self.threshold_mode == "rel" else 1)
        return value < self.best - margin if self.mode == "min" else value > self.best + margin

    def step(self, metrics: float) -> None:  # type: ignore[override]
        """Record the epoch's metric, and lower the learning rates if it is time."""
        value = float(metrics)
        if self._better(value):
            self.best, self.bad_steps = value, 0
        else:
            self.bad_steps += 1
        if self.resting:
            self.resting, self.bad_steps = self.resting - 1, 0
        if self.bad_steps > self.patience:
            factor: float = self.factor  # type: ignore[assignment]
            for group in self.optimizer.param_groups:
                lower = max(group["lr"] * factor, self.min_lr)
                if group["lr"] - lower > self.eps:
                    group["lr"] = lower
            self.resting, self.bad_steps = self.cooldown, 0

    needs_measure = True

    def state_dict(self) -> dict[str, Any]:
        """Return {"best", "bad_steps", "resting"}; the learning rates are the optimiser's."""
        return {"best": self.best, "bad_steps": self.bad_steps, "resting": self.resting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned."""
        self.best, self.bad_steps, self.resting = state["best"], int(state["bad_steps"]), int(state["resting"])
