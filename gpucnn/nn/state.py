"""Hook handles, the names that a state dictionary did not match, and the conversion of values for parameters."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from gpucnn.autograd import Tensor
from gpucnn.errors import CheckpointError, kind_of


class HookHandle:
    """Removes a hook: call ``handle.remove()``, or leave its ``with`` block."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook
        hooks.append(hook)

    def remove(self) -> None:
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class IncompatibleKeys(NamedTuple):
    """The names that ``load_state_dict`` did not match: missing in the state, and unknown to the model."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def as_tensor_like(value: Any, like: Tensor, name: str) -> Tensor:
    """Convert an array, a Tensor or a PyTorch tensor to a Tensor like ``like``; CheckpointError if that fails."""
    if not hasattr(value, "shape"):
        raise CheckpointError.expected("load_state_dict", name, "an array", kind_of(value))
    if tuple(value.shape) != like.shape:
        raise CheckpointError.expected("load_state_dict", name, f"shape {like.shape}", tuple(value.shape))
    value = value.detach() if hasattr(value, "detach") else value
    if str(value.dtype).endswith("bfloat16"):  # PyTorch's, which NumPy lacks, or that of ml_dtypes
        value = value.float() if hasattr(value, "float") else value.astype("float32")
    try:
        return Tensor(
            like.backend.asarray(value.numpy() if hasattr(value, "numpy") else value, like.dtype), like.backend
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError.expected("load_state_dict", name, f"numbers for {like.dtype}", error) from None
