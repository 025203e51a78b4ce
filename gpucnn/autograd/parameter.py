"""A tensor that training changes."""

from __future__ import annotations

from typing import Any, Self

from gpucnn.autograd.tensor import Tensor, check_gradient
from gpucnn.backend import Array
from gpucnn.errors import DTypeError, GraphError, ParameterError


class Parameter(Tensor):
    """A leaf that wants a gradient. An optimiser binds it: its values and gradient become views of flat buffers.

    Bound or not, change it in place (``p.copy_(...)`` under ``no_grad``); ``p.grad = ...`` copies into the buffer.
    """

    __slots__ = ("_has_grad", "l1", "l2", "lr_multiplier", "owner")

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        if not isinstance(data, Tensor):
            raise DTypeError.expected("Parameter", "data", "a Tensor", type(data).__name__, "use gpucnn.tensor(...)")
        self.owner: object | None = None
        self._has_grad = False
        self.lr_multiplier, self.l1, self.l2 = 1.0, 0.0, 0.0
        super().__init__(data.array, data.backend)
        self.version = data.version  # they share memory
        self.requires_grad_(requires_grad)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "array" and getattr(self, "owner", None) is not None:
            raise GraphError(
                "Parameter: its memory belongs to an optimiser and cannot be replaced. "
                "Assign with p.copy_(values) under no_grad(), or p[...] = values."
            )
        super().__setattr__(name, value)

    def __reduce__(self) -> Any:
        values = self.detach()
        return _restored, (type(self), values, self.requires_grad, self.lr_multiplier, self.l1, self.l2)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        values = self.detach().clone()
        copy: Self = _restored(type(self), values, self.requires_grad, self.lr_multiplier, self.l1, self.l2)
        memo[id(self)] = copy
        return copy

    def configure(
        self,
        *,
        lr_multiplier: float | None = None,
        l1: float | None = None,
        l2: float | None = None,
        frozen: bool | None = None,
    ) -> Self:
        """Set what an optimiser made later does with this parameter alone, and return it.

        Its learning rate is the group's times ``lr_multiplier``; its gradient gains ``l1`` sign(p) + ``l2`` p, beside the
        group's weight decay; ``frozen`` says that it wants no gradient. ParameterError for a negative number, GraphError
        where an optimiser owns it already (``frozen`` may change at any time).

        >>> import gpucnn
        >>> gpucnn.nn.Parameter(gpucnn.tensor([1.0])).configure(lr_multiplier=0.1).lr_multiplier
        0.1
        """
        numbers = {"lr_multiplier": lr_multiplier, "l1": l1, "l2": l2}
        for key, value in numbers.items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ParameterError.expected("configure", key, "a number of at least 0", repr(value))
            if self.owner is not None:
                raise GraphError(f"configure: {key}: an optimiser owns this parameter. Configure it, then make one.")
            setattr(self, key, float(value))
        if frozen is not None:
            self.requires_grad_(not frozen)
        return self

    def bind(self, owner: object, array: Array, gradient: Array) -> None:
        """Move values and gradient into the memory of ``owner``, an optimiser."""
        array[...] = self.array
        before = self.grad
        self.owner = None
        self.array = array
        self.owner = owner
        self._grad = Tensor(gradient, self.backend)
        self._has_grad = False
        self.note_change()
        if before is not None:
            self.grad = before

    def unbind(self) -> None:
        """Take values and gradient out of the optimiser's memory again."""
        gradient = self.grad
        self.owner = None
        self.array = self.array.copy()
        self._grad = None if gradient is None else gradient.clone()

    @property
    def grad(self) -> Tensor | None:
        return self._grad if self.owner is None or self._has_grad else None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if self.owner is None:
            Tensor.grad.fset(self, value)  # type: ignore[attr-defined]
            return
        if value is not None:
            check_gradient(self, value, "grad", "value")
        self._has_grad = False
        if value is not None:
            self.accumulate_grad(value.array)

    def gradient_room(self) -> Array | None:
        return None if self.owner is None or self._has_grad or self._grad is None else self._grad.array

    def fill_gradient_room(self) -> None:
        self._has_grad = True

    def accumulate_grad(self, gradient: Array) -> None:
        if self.owner is None:
            super().accumulate_grad(gradient)
            return
        assert self._grad is not None
        if self._has_grad:
            self._grad.array += gradient
        else:
            self._grad.array[...] = gradient
            self._has_grad = True

    def move_(self, values: Tensor) -> None:
        """Take ``values``, of another device or dtype, as its own; an optimiser that held the old memory lets it go."""
        if values.array is self.array:
            return
        self.unbind()
        self.array, self.backend, self.version, self._grad = values.array, values.backend, values.version, None


def _restored(kind: type[Any], values: Tensor, requires_grad: bool, lr_multiplier: float, l1: float, l2: float) -> Any:
    """Return a copied or pickled parameter, which no optimiser owns."""
    parameter = kind(values, requires_grad)
    parameter.lr_multiplier, parameter.l1, parameter.l2 = lr_multiplier, l1, l2
    return parameter
