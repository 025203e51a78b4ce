"""Optimisers and schedules by name, as the settings describe them: ``sgd:nesterov=true``, ``cosine:warmup=1``.

Lengths are in epochs here and need not be whole; the schedules of ``gpucnn.optim`` count steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gpucnn import nn, optim
from gpucnn.errors import GpucnnError, UsageError, did_you_mean
from gpucnn.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from gpucnn.optim.optimizer import check_number
from gpucnn.options import read_options

Numbers = float | tuple[float, ...]

OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], float, float]] = {
    "sgd": (optim.SGD, 0.1, 0.0),
    "adam": (optim.Adam, 5e-3, 0.0),
    "adamw": (optim.AdamW, 5e-3, 0.01),
    "rmsprop": (optim.RMSprop, 1e-3, 0.0),
    "adagrad": (optim.Adagrad, 0.02, 0.0),
    "adadelta": (optim.Adadelta, 1.0, 0.0),
}
"""Each optimiser's class, and the default learning rate and weight decay of a run with it."""


LONGEST = 1_000_000_000
"""Epochs, of which none is reached."""


@dataclass(frozen=True)
class Length:
    """The length of a run: its steps in total, and per epoch."""

    steps: int
    epoch: int

    def of(self, epochs: float) -> int:
        """Return this many epochs as steps, at least one; ParameterError for an invalid length."""
        check_number(epochs, "length", "epochs", 0, LONGEST)
        return max(round(epochs * self.epoch), 1)


# --- schedules: each makes one for an optimiser whose learning rate is the run's ------------------------------------


def one_cycle(
    optimizer: optim.Optimizer,
    length: Length,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> OneCycleLR:
    """Increases to the learning rate, then decreases to 0; momentum does the opposite (Smith & Topin 2018)."""
    return OneCycleLR(
        optimizer, optimizer.param_groups[0]["lr"], length.steps, pct_start,
        div_factor=div_factor, final_div_factor=final_div_factor,
    )  # fmt: skip


def constant(optimizer: optim.Optimizer, length: Length, warmup: float = 0.0) -> LRScheduler | None:
    """The same learning rate throughout."""
    return _warmed(optimizer, length, warmup, lambda rest: LinearLR(optimizer, 1.0, 1.0, rest)) if warmup else None


def warm_up(optimizer: optim.Optimizer, length: Length, epochs: float = 1.0, start: float = 0.1) -> LRScheduler:
    """Increases from ``start`` times the learning rate to all of it in ``epochs``, then constant (Goyal et al. 2017)."""
    return LinearLR(optimizer, start, 1.0, length.of(epochs))


def cosine(optimizer: optim.Optimizer, length: Length, warmup: float = 0.0, end: float = 0.0) -> LRScheduler:
    """Decreases to ``end`` along half a cosine (Loshchilov & Hutter 2017)."""
    return _warmed(optimizer, length, warmup, lambda rest: CosineAnnealingLR(optimizer, rest, end))


def polynomial(optimizer: optim.Optimizer, length: Length, warmup: float = 0.0, power: float = 1.0) -> LRScheduler:
    """Decreases to 0 as (1 - fraction of the run) to the power ``power``."""
    return _warmed(optimizer, length, warmup, lambda rest: PolynomialLR(optimizer, rest, power))


def exponential(optimizer: optim.Optimizer, length: Length, warmup: float = 0.0, gamma: float = 0.5) -> LRScheduler:
    """Multiplies by ``gamma`` per epoch, gradually at every step."""
    return _warmed(optimizer, length, warmup, lambda _: ExponentialLR(optimizer, gamma ** (1 / length.epoch)))


def step(
    optimizer: optim.Optimizer, length: Length, warmup: float = 0.0, epochs: float | None = None, gamma: float = 0.1
) -> LRScheduler:
    """Multiplies by ``gamma`` every ``epochs`` epochs; by default every third of the run."""
    size = max(length.steps // 3, 1) if epochs is None else length.of(epochs)
    return _warmed(optimizer, length, warmup, lambda _: StepLR(optimizer, size, gamma))


def multi_step(
    optimizer: optim.Optimizer, length: Length, warmup: float = 0.0, epochs: Numbers | None = None, gamma: float = 0.1
) -> LRScheduler:
    """Multiplies by ``gamma`` after each of ``epochs`` (3+5); by default after half and three quarters of the run."""
    if epochs is None:
        steps = [max(length.steps // 2, 1), max(length.steps * 3 // 4, 1)]
    else:
        steps = [length.of(epoch) for epoch in (epochs if isinstance(epochs, tuple) else (epochs,))]

    def after(first: int) -> list[int]:
        return [max(step - first, 1) for step in steps]  # the schedule after a warm-up counts from its end

    return _warmed(optimizer, length, warmup, lambda rest: MultiStepLR(optimizer, after(length.steps - rest), gamma))


def plateau(
    optimizer: optim.Optimizer, length: Length, factor: float = 0.1, patience: int = 2, min_lr: float = 0.0
) -> ReduceLROnPlateau:
    """Multiplies by ``factor`` if the validation loss (or else training loss) has not improved for ``patience`` epochs."""
    return ReduceLROnPlateau(optimizer, "min", factor, patience, min_lr=min_lr)


def _warmed(
    optimizer: optim.Optimizer, length: Length, warmup: float, make: Callable[[int], LRScheduler]
) -> LRScheduler:
    """Return a warm-up of this many epochs, followed by the schedule that ``make`` makes for the remaining steps."""
    if not warmup:
        return make(length.steps)
    first = min(length.of(warmup), length.steps)
    rise = LinearLR(optimizer, 0.1, 1.0, first)
    for group, base in zip(optimizer.param_groups, rise.base_lrs, strict=True):
        group["lr"] = base  # what the second one starts from
    return SequentialLR(optimizer, [rise, make(max(length.steps - first, 1))], [first])


SCHEDULES: dict[str, Callable[..., LRScheduler | None]] = {
    "one-cycle": one_cycle,
    "constant": constant,
    "cosine": cosine,
    "polynomial": polynomial,
    "exponential": exponential,
    "step": step,
    "multi-step": multi_step,
    "warm-up": warm_up,
    "plateau": plateau,
}

# --- from their texts --------------------------------------------------------------------------------------------


def check_name(text: str, known: dict[str, Any], key: str) -> None:
    """UsageError unless ``text`` is NAME or NAME:OPTION=VALUE,... with a known name."""
    name = text.partition(":")[0] if isinstance(text, str) else text
    if name not in known:
        expected = " or ".join(known)
        raise UsageError.expected("settings", key, expected, repr(name), did_you_mean(str(name), known))


def make_optimizer(
    text: str,
    net: nn.Module | Iterable[tuple[str, nn.Parameter]],
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
) -> optim.Optimizer:
    """Return the optimiser that ``text`` describes, for all parameters of ``net`` or the given named ones.

    Options in the text win over arguments; momentum is for sgd. UsageError for an unknown option or a value out of range.
    """
    name, _, rest = text.partition(":")
    make, usual, decay = OPTIMIZERS[name]
    options: dict[str, Any] = {
        "lr": usual if lr is None else lr,
        "weight_decay": decay if weight_decay is None else weight_decay,
    }
    if name == "sgd":
        options["momentum"] = momentum
    options |= read_options(rest, make, f"optimizer {name}", first=1)
    parameters = net.named_parameters() if isinstance(net, nn.Module) else net
    return _made(f"optimizer {name}", make, parameters, **options)  # type: ignore[no-any-return]


def make_schedule(text: str, optimizer: optim.Optimizer, steps: int, epoch: int) -> LRScheduler | None:
    """Return the schedule that ``text`` describes, for a run of this many steps, ``epoch`` of them in each epoch.

    UsageError for an unknown option or a value out of range.
    """
    name, _, rest = text.partition(":")
    make = SCHEDULES[name]
    options = read_options(rest, make, f"schedule {name}", first=2)
    return _made(f"schedule {name}", make, optimizer, Length(steps, epoch), **options)  # type: ignore[no-any-return]


def _made(where: str, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return make(*arguments, **options)
    except (GpucnnError, TypeError, ValueError) as error:  # a text where a number belongs
        raise UsageError(f"{where}: {error}") from None
