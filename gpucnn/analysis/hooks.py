"""Run a model with hooks, and restore it afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gpucnn.backend import Backend, get_backend
from gpucnn.errors import ParameterError
from gpucnn.nn import Module
from gpucnn.nn.module import ForwardHook, evaluating


@contextmanager
def watched(model: Module, modules: Iterable[Module], hook: ForwardHook) -> Iterator[None]:
    """Within the block the model is in evaluation mode, records nothing, and ``hook`` sees every call of ``modules``.

    Hooks also keep ``Sequential`` from running several layers as one. Each module's own mode is restored.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for module in modules:
            stack.enter_context(module.register_forward_hook(hook))
        yield


def check_module(model: Any, where: str) -> None:
    """ParameterError unless ``model`` is a Module."""
    if not isinstance(model, Module):
        raise ParameterError.expected(where, "model", "a Module", type(model).__name__)


def waits(model: Module) -> bool:
    """Whether a layer of ``model`` takes its input size from the first call."""
    return any(module.waits_for_input() for module in model.modules())


def home_of(model: Module) -> tuple[Backend, Any]:
    """Return the backend and dtype of the first parameter; the default backend and float32 if there is none yet."""
    for module in model.modules():
        if not waits(module):
            for parameter in module.parameters():
                return parameter.backend, parameter.dtype
    return get_backend(), "float32"
