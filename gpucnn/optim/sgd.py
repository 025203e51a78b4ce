"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpucnn.backend import Array, ops
from gpucnn.errors import ParameterError
from gpucnn.optim.flat import FlatBuffer
from gpucnn.optim.optimizer import Optimizer, Params


class SGD(Optimizer):
    """p -= lr v, where v = momentum v + g and g is the gradient plus weight_decay p. nesterov: p -= lr (g + momentum v).

    maximize: minus the gradient takes its place, in every optimiser.

    Raises ParameterError for a negative number, or nesterov without momentum.
    Source: Polyak 1964; Sutskever et al. 2013 (in PyTorch's form, with lr outside the velocity).

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> p = nn.Parameter(gpucnn.tensor([1.0]))
    >>> (p * 2).sum().backward()
    >>> SGD([p], lr=0.25).step()
    >>> p.tolist()
    [0.5]
    """

    slots = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float = 0.001,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "nesterov": nesterov, "maximize": maximize})

    def check(self, settings: dict[str, Any]) -> None:
        super().check(settings)
        if settings["nesterov"] and not settings["momentum"]:
            raise ParameterError.expected("SGD", "nesterov", "a momentum above 0 with nesterov=True", "momentum=0")

    def fixed(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**super().fixed(group), "momentum": bool(group["momentum"])}

    def rates(self, group: dict[str, Any]) -> tuple[float, ...]:
        return (group["lr"], group["momentum"]) if group["momentum"] else (group["lr"],)

    def with_rates(self, group: dict[str, Any], rates: Sequence[Any]) -> dict[str, Any]:
        return {**group, **dict(zip(("lr", "momentum"), rates, strict=False))}

    def update(
        self, buffer: FlatBuffer, span: slice, step: int | Array, group: dict[str, Any], where: Array | bool
    ) -> None:
        without = isinstance(group["momentum"], float | int) and not group["momentum"]
        velocity = None if without else buffer.state["momentum_buffer"][span]
        ops.sgd_update(buffer.backend, buffer.values[span], buffer.gradient(span), velocity, where=where, **group)
