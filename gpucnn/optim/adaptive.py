"""Optimisers that scale each parameter's step by its past gradients: AdaGrad, RMSProp, AdaDelta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpucnn.backend import Array, ops
from gpucnn.optim.flat import FlatBuffer
from gpucnn.optim.optimizer import Optimizer, Params, check_number


class Adagrad(Optimizer):
    """p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(sum of g²) + eps) at step t. Source: Duchi, Hazan & Singer 2011.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> p = nn.Parameter(gpucnn.tensor([1.0]))
    >>> (p * 2).sum().backward()
    >>> Adagrad([p], lr=0.25).step()
    >>> p.tolist()
    [0.75]
    """

    slots = ("sum",)
    counts_steps = True

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        check_number(initial_accumulator_value, "Adagrad", "initial_accumulator_value", 0, None)
        numbers = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, {**numbers, "maximize": maximize})
        for buffers in self._buffers:
            for buffer in buffers:
                ops.fill(buffer.backend, buffer.state["sum"], initial_accumulator_value)

    def check(self, settings: dict[str, Any]) -> None:
        super().check(settings)
        check_number(settings["lr_decay"], "Adagrad", "lr_decay", 0, None)

    def update(
        self, buffer: FlatBuffer, span: slice, step: int | Array, group: dict[str, Any], where: Array | bool
    ) -> None:
        total = buffer.state["sum"][span]
        ops.adagrad_update(
            buffer.backend, buffer.values[span], buffer.gradient(span), total, step=step, where=where, **group
        )


class RMSprop(Optimizer):
    """p -= lr v, v = momentum v + g / (sqrt(m) + eps), m the running mean of g², minus the square of that of g if centered.

    Source: Tieleman & Hinton 2012, lecture 6.5; Graves 2013 (centered).

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> p = nn.Parameter(gpucnn.tensor([1.0]))
    >>> (p * 2).sum().backward()
    >>> RMSprop([p], lr=0.25, alpha=0.0).step()
    >>> p.tolist()
    [0.75]
    """

    slots = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        numbers = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**numbers, "centered": centered, "maximize": maximize})

    def check(self, settings: dict[str, Any]) -> None:
        super().check(settings)
        check_number(settings["alpha"], "RMSprop", "alpha", 0, None)

    def fixed(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**super().fixed(group), "momentum": None}

    def rates(self, group: dict[str, Any]) -> tuple[float, ...]:
        return group["lr"], group["momentum"]

    def with_rates(self, group: dict[str, Any], rates: Sequence[Any]) -> dict[str, Any]:
        return {**group, "lr": rates[0], "momentum": rates[1]}

    def update(
        self, buffer: FlatBuffer, span: slice, step: int | Array, group: dict[str, Any], where: Array | bool
    ) -> None:
        square, mean, velocity = (buffer.state[slot][span] for slot in self.slots)
        ops.rmsprop_update(
            buffer.backend, buffer.values[span], buffer.gradient(span), square, mean, velocity, where=where, **group
        )


class Adadelta(Optimizer):
    """p -= lr d, d = sqrt(E[d²] + eps) / sqrt(E[g²] + eps) g, both means running with rho. Source: Zeiler 2012.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> p = nn.Parameter(gpucnn.tensor([1.0]))
    >>> (p * 2).sum().backward()
    >>> Adadelta([p]).step()
    >>> round(p.item(), 4)
    0.9968
    """

    slots = ("square_avg", "acc_delta")

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        numbers = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "maximize": maximize})

    def check(self, settings: dict[str, Any]) -> None:
        super().check(settings)
        check_number(settings["rho"], "Adadelta", "rho", 0, 1 + 1e-12)

    def update(
        self, buffer: FlatBuffer, span: slice, step: int | Array, group: dict[str, Any], where: Array | bool
    ) -> None:
        square, moved = (buffer.state[slot][span] for slot in self.slots)
        ops.adadelta_update(
            buffer.backend, buffer.values[span], buffer.gradient(span), square, moved, where=where, **group
        )
