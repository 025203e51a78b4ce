"""Parts of a run that are a user's own objects, in place of those that its settings name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpucnn.errors import ParameterError
from gpucnn.nn import Module
from gpucnn.optim import Optimizer
from gpucnn.training.config import OBJECT, Settings
from gpucnn.training.step import LossFunction


def naming_objects(
    settings: Settings, net: Module | None, loss: LossFunction | None, optimizer: Optimizer | None
) -> Settings:
    """Return the settings with the objects' names in place of those they stand for, as ``config.toml`` tells them.

    ParameterError for objects of another kind, for options of a loss by name beside one of the user's own, and for an
    optimizer without the network whose parameters it has.
    """
    for argument, found, kind in (("net", net, Module), ("optimizer", optimizer, Optimizer)):
        if found is not None and not isinstance(found, kind):
            raise ParameterError.expected("Trainer", argument, f"an object of {kind.__name__}", type(found).__name__)
    if net is not None:
        settings = replace(settings, model=_name_of(net))
    if loss is not None:
        if not callable(loss):
            raise ParameterError.expected("Trainer", "loss", "a function of (output, targets)", type(loss).__name__)
        for key in ("class_weights", "label_smoothing"):
            if getattr(settings, key):
                raise ParameterError.expected("Trainer", key, "none beside a loss of your own", getattr(settings, key))
        settings = replace(settings, loss=_name_of(loss))
    if optimizer is not None:
        if net is None:
            raise ParameterError.expected("Trainer", "optimizer", "the network whose parameters it has as net=", "none")
        own = {id(parameter) for parameter in net.parameters()}
        if not all(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            raise ParameterError.expected("Trainer", "optimizer", "one of the network's parameters", "others")
        settings = replace(settings, optimizer=_name_of(optimizer), lr=float(optimizer.param_groups[0]["lr"]))
    return settings


def _name_of(found: Any) -> str:
    return f"{getattr(found, '__name__', type(found).__name__)}{OBJECT}"
