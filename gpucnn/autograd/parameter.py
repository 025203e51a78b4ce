"""Parameters, and the flat memory that several of them share, so that one update covers all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from gpucnn.autograd.tape import check_gradient
from gpucnn.autograd.tensor import Tensor
from gpucnn.backend import Array, Backend, ops
from gpucnn.checks import check_number
from gpucnn.errors import DTypeError, GraphError, kind_of


class Parameter(Tensor):
    """A leaf that requires a gradient. An optimiser makes its values and gradient views of the flat arrays of a store.

    In both cases, change it in place (``p.copy_(...)`` under ``no_grad``); ``p.grad = ...`` copies into the store.
    """

    __slots__ = ("_has_grad", "l1", "l2", "lr_multiplier", "store")

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        if not isinstance(data, Tensor):
            raise DTypeError.expected("Parameter", "data", "a Tensor", kind_of(data), "use gpucnn.tensor(...)")
        self.store: ParameterStore | None = None
        self._has_grad = False
        self.lr_multiplier, self.l1, self.l2 = 1.0, 0.0, 0.0
        super().__init__(data.array, data.backend)
        self.version = data.version  # both share the memory
        self.requires_grad_(requires_grad)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "array" and getattr(self, "store", None) is not None:
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
        """Set how a later optimiser updates this parameter, and return the parameter.

        Its learning rate is the group's times ``lr_multiplier``. ``l1`` sign(p) + ``l2`` p is added to its gradient, in
        addition to the group's weight decay. A ``frozen`` parameter requires no gradient. ParameterError for a negative
        number, GraphError if an optimiser already has the parameter (``frozen`` may change at any time).

        >>> import gpucnn
        >>> gpucnn.nn.Parameter(gpucnn.tensor([1.0])).configure(lr_multiplier=0.1).lr_multiplier
        0.1
        """
        numbers = {"lr_multiplier": lr_multiplier, "l1": l1, "l2": l2}
        for key, value in numbers.items():
            if value is None:
                continue
            check_number(value, "configure", key, 0)
            if self.store is not None:
                raise GraphError(
                    f"configure: {key}: an optimiser already has this parameter. Configure it before making one."
                )
            setattr(self, key, float(value))
        if frozen is not None:
            self.requires_grad_(not frozen)
        return self

    def bind(self, owner: ParameterStore, array: Array, gradient: Array) -> None:
        """Move values and gradient into the memory of a store."""
        ops.fill(self.backend, array, self.array)
        before = self.grad
        self.store = None
        self.array = array
        self.store = owner
        self._grad = Tensor(gradient, self.backend)
        self._has_grad = False
        self.note_change()
        if before is not None:
            self.grad = before

    @property
    def owner(self) -> ParameterStore | None:
        """The name that ``store`` had in version 0.1.0."""
        return self.store

    def unbind(self) -> None:
        """Copy values and gradient out of the store's memory."""
        gradient = self.grad
        self.store = None
        self.array = ops.c_ordered_copy(self.backend, self.array)
        self._grad = None if gradient is None else gradient.clone()

    @property
    def grad(self) -> Tensor | None:
        return self._grad if self.store is None or self._has_grad else None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if self.store is None:
            Tensor.grad.fset(self, value)  # type: ignore[attr-defined]
            return
        if value is not None:
            check_gradient(self, value, "grad", "value")
        self._has_grad = False
        if value is not None:
            self.accumulate_grad(value.array)

    def clear_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradient or, unless ``set_to_none``, fill it with zeros."""
        if set_to_none or self.grad is None:
            self.grad = None
        else:
            self.grad = self.like(ops.zeros(self.backend, self.shape, self.dtype))

    def gradient_room(self) -> Array | None:
        return None if self.store is None or self._has_grad or self._grad is None else self._grad.array

    def fill_gradient_room(self) -> None:
        self._has_grad = True

    def accumulate_grad(self, gradient: Array) -> None:
        if self.store is None:
            super().accumulate_grad(gradient)
            return
        assert self._grad is not None
        if self._has_grad:
            ops.add_to(self.backend, self._grad.array, gradient)
        else:
            ops.fill(self.backend, self._grad.array, gradient)
            self._has_grad = True

    def move_(self, values: Tensor) -> None:
        """Replace the values by ``values``, of another device or dtype, and leave the store."""
        if values.array is self.array:
            return
        self.unbind()
        self.array, self.backend, self.version, self._grad = values.array, values.backend, values.version, None


class ParameterStore:
    """The values and the gradients of parameters, one 1-D array each. The parameters are views of them.

    All parameters have one device and dtype. A parameter joins a store when an optimiser is made for it, and stays there. A
    second optimiser for the same parameters uses the same store. An optimiser with other groups moves the parameters into
    stores of its own; the first optimiser notices at its next step and moves them back.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)
        first = parameters[0]
        self.backend: Backend = first.backend
        total = sum(parameter.size for parameter in parameters)
        self.values: Array = ops.zeros(self.backend, total, first.dtype)
        self.gradients: Array = ops.zeros(self.backend, total, first.dtype)
        for parameter, span in self.spans():
            flat = (ops.index(self.backend, array, span) for array in (self.values, self.gradients))
            parameter.bind(self, *(ops.reshape(self.backend, array, parameter.shape) for array in flat))

    def spans(self) -> Iterator[tuple[Parameter, slice]]:
        """Yield each parameter with its span of the flat arrays."""
        start = 0
        for parameter in self.parameters:
            yield parameter, slice(start, start + parameter.size)
            start += parameter.size

    def holds_all(self) -> bool:
        """Whether all of its parameters are still in this store."""
        return all(parameter.store is self for parameter in self.parameters)


def store_of(parameters: Sequence[Parameter]) -> ParameterStore:
    """Return the store of exactly these parameters in this order. If there is none, move them into a new one."""
    store = parameters[0].store
    if store is not None and store.holds_all() and [*map(id, store.parameters)] == [*map(id, parameters)]:
        return store
    return ParameterStore(parameters)


def _restored(kind: type[Any], values: Tensor, requires_grad: bool, lr_multiplier: float, l1: float, l2: float) -> Any:
    """Return a copied or unpickled parameter, which belongs to no store."""
    parameter = kind(values, requires_grad)
    parameter.lr_multiplier, parameter.l1, parameter.l2 = lr_multiplier, l1, l2
    return parameter
