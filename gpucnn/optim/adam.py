"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpucnn.backend import Array, ops
from gpucnn.checks import check_flag
from gpucnn.errors import ParameterError
from gpucnn.optim.flat import FlatBuffer
from gpucnn.optim.optimizer import Optimizer, Params, check_number

HIGHEST = "max_exp_avg_sq"
"""The state of amsgrad."""


class Adam(Optimizer):
    """p -= lr m^ / (sqrt(v^) + eps), with running means m of the gradient and v of its square, bias-corrected.

    weight_decay adds weight_decay p to the gradient. amsgrad divides by the root of the largest v so far. Raises
    ParameterError for a hyper-parameter out of range. Source: Kingma & Ba 2015, algorithm 1; Reddi et al. 2018.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> p = nn.Parameter(gpucnn.tensor([1.0]))
    >>> (p * 2).sum().backward()
    >>> Adam([p], lr=0.25).step()
    >>> p.tolist()
    [0.75]
    """

    slots: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    decoupled = False
    counts_steps = True

    def __init__(
        self,
        params: Params,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        if check_flag(amsgrad, type(self).__name__, "amsgrad"):
            self.slots = (*self.slots, HIGHEST)
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "amsgrad": amsgrad, "maximize": maximize})

    def check(self, settings: dict[str, Any]) -> None:
        super().check(settings)
        if settings["amsgrad"] != (HIGHEST in self.slots):
            got = f"amsgrad={settings['amsgrad']} in a group"
            raise ParameterError.expected(type(self).__name__, "amsgrad", "the same for all parameters", got)
        if not isinstance(settings["betas"], (tuple, list)) or len(settings["betas"]) != 2:
            raise ParameterError.expected("Adam", "betas", "two numbers", repr(settings["betas"]))
        for beta in settings["betas"]:
            check_number(beta, "Adam", "betas", 0, 1)

    def fixed(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**super().fixed(group), "betas": group["betas"][1]}

    def rates(self, group: dict[str, Any]) -> tuple[float, ...]:
        return group["lr"], group["betas"][0]

    def with_rates(self, group: dict[str, Any], rates: Sequence[Any]) -> dict[str, Any]:
        return {**group, "lr": rates[0], "betas": (rates[1], group["betas"][1])}

    def update(
        self, buffer: FlatBuffer, span: slice, step: int | Array, group: dict[str, Any], where: Array | bool
    ) -> None:
        beta1, beta2 = group["betas"]
        arrays = (buffer.values[span], buffer.gradient(span), *(buffer.state[slot][span] for slot in self.slots))
        update = ops.amsgrad_update if group["amsgrad"] else ops.adam_update
        update(
            buffer.backend, *arrays,
            lr=group["lr"], beta1=beta1, beta2=beta2, eps=group["eps"], weight_decay=group["weight_decay"],
            step=step, decoupled=self.decoupled, where=where,
        )  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay: p *= 1 - lr weight_decay, instead of adding it to the gradient.

    Source: Loshchilov & Hutter 2019.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> p = nn.Parameter(gpucnn.tensor([1.0]))
    >>> (p * 0).sum().backward()
    >>> AdamW([p], lr=0.5, weight_decay=0.5).step()
    >>> p.tolist()
    [0.75]
    """

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
