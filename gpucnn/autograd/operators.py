"""The operators of a tensor: ``+ - * / @ **``, comparison, indexing, shapes and reductions.

``Tensor`` inherits these methods. ``operations.py`` has their computations and gradients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

from gpucnn.autograd import operations
from gpucnn.autograd.tape import Operation, Version, apply, is_grad_enabled
from gpucnn.backend import Array, Backend, ops
from gpucnn.checks import is_flag, is_integer, is_number, shown
from gpucnn.errors import DTypeError, GpucnnError, GraphError, MixedDeviceError, ParameterError, ShapeError, kind_of

if TYPE_CHECKING:
    from gpucnn.autograd.tensor import Tensor

Axis = int | tuple[int, ...] | None


def refuse_lost_gradient(value: Tensor, where: str) -> None:
    """Raise GraphError if writing ``value`` into another tensor's memory would silently lose its gradient."""
    if value.requires_grad and is_grad_enabled():
        raise GraphError(
            f"{where}: the value takes part in gradients, and writing it into a tensor would lose them. "
            "Make a new tensor (x = x + value), or write value.detach()."
        )


class Operators:
    """Arithmetic as in NumPy, with broadcasting. The other operand is a Tensor or a Python number.

    Raises DTypeError for operands of two floating dtypes, ShapeError for shapes that do not broadcast, MixedDeviceError for
    operands on two devices.
    """

    __slots__ = ()
    array: Array
    backend: Backend
    version: Version

    if TYPE_CHECKING:
        # The members that the operators use of the class that inherits them.
        def like(self, array: Array, shares_memory: bool = False) -> Tensor: ...
        def refuse_in_place(self, what: str) -> None: ...
        def detach(self) -> Tensor: ...
        def _to_dtype(self, dtype: Any) -> Tensor: ...

        requires_grad: bool

        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def ndim(self) -> int: ...
        @property
        def size(self) -> int: ...
        @property
        def dtype(self) -> Any: ...

    # --- operands ------------------------------------------------------------------------------------------------

    def operand(self, value: Any, where: str) -> Tensor:
        """Return ``value`` as a tensor. Numbers and integer tensors take self's dtype if it can represent them.

        A float with an integer tensor becomes float32, an int with a boolean tensor int64.
        """
        if isinstance(value, Operators):
            if self.dtype.kind != "f" or value.dtype == self.dtype:
                return value  # type: ignore[return-value]
            if value.dtype.kind == "f":
                raise DTypeError.expected(
                    where,
                    "operands",
                    "one floating dtype",
                    f"{self.dtype} and {value.dtype}",
                    "convert one with .to(dtype)",
                )
            return value._to_dtype(self.dtype)
        if is_number(value) or is_flag(value):
            dtype = self.dtype
            if not is_integer(value) and not is_flag(value) and dtype.kind != "f":
                dtype = "float32"
            elif is_integer(value) and dtype.kind == "b":
                dtype = "int64"
            try:
                return self.like(self.backend.asarray(value, dtype))
            except OverflowError:
                raise DTypeError.expected(where, "operand", f"a number that fits {self.dtype}", value) from None
        raise DTypeError.expected(
            where, "operand", "a Tensor or a number", kind_of(value), "wrap arrays in gpucnn.tensor(...)"
        )

    def index_array(self, key: Any) -> Any:
        """Return an index expression with its tensors, lists and host arrays replaced by arrays of this device."""
        return tuple(self._index_part(part) for part in key) if isinstance(key, tuple) else self._index_part(key)

    def _index_part(self, part: Any) -> Any:
        if isinstance(part, Operators):
            if part.backend is not self.backend:
                raise MixedDeviceError.expected(
                    "x[...]", "index", f"a tensor on {self.backend.name}", part.backend.name
                )
            part = part.array
        elif isinstance(part, (list, tuple)):
            try:
                part = self.backend.asarray(part) if len(part) else ops.zeros(self.backend, 0, "int64")
            except (TypeError, ValueError) as error:
                raise DTypeError.expected(
                    "x[...]", "index", "integers or booleans", f"{part!r:.60} ({error})"
                ) from None
        elif getattr(part, "ndim", 0):
            part = self.backend.asarray(part)
        else:
            return part
        if part.dtype.kind not in "iub":
            raise DTypeError.expected("x[...]", "index", "integers or booleans", f"dtype {part.dtype}")
        return part

    def _with(self, operation: Operation, other: Any, symbol: str, swapped: bool = False, **params: Any) -> Tensor:
        where = f"a {symbol} b"
        right = self.operand(other, where)
        left = right.operand(self, where)  # an integer operand takes the other's floating dtype
        if symbol == "/":
            left, right = left._real(), right._real()
        if symbol == "-" and left.dtype.kind == right.dtype.kind == "b":
            raise DTypeError.expected(where, "operands", "numbers", "booleans", "use a != b")
        if swapped:
            left, right = right, left
        try:
            return apply(operation, left, right, **params)
        except ValueError as error:
            if isinstance(error, GpucnnError):
                raise
            if "power" in str(error):
                raise DTypeError.expected(where, "a", "a floating dtype for a negative exponent", left.dtype) from None
            raise ShapeError.expected(
                where, "shapes", "shapes that broadcast", f"{left.shape} and {right.shape}"
            ) from None

    def _real(self) -> Tensor:
        """Return self if its dtype is floating, else self as float32."""
        return self if self.dtype.kind == "f" else self._to_dtype("float32")  # type: ignore[return-value]

    def _compare(self, other: Any, symbol: str) -> Tensor:
        return self._with(operations.comparison, other, symbol, compared=symbol)

    def _in_place(self, result: Tensor, symbol: str) -> Self:
        where = f"x {symbol}= value"
        refuse_lost_gradient(result, where)
        if result.shape != self.shape:
            raise ShapeError.expected(where, "result", f"shape {self.shape}", result.shape)
        if result.dtype.kind == "f" and self.dtype.kind != "f":
            raise DTypeError.expected(where, "x", "a floating dtype for a floating result", self.dtype)
        self.refuse_in_place(where)
        ops.fill(self.backend, self.array, result.array)
        return self

    def _axes(self, axis: Axis, where: str) -> tuple[int, ...]:
        chosen = range(self.ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
        for i in chosen:
            if not is_integer(i) or not -self.ndim <= i < self.ndim:
                raise ShapeError.expected(where, "axis", f"an int from {-self.ndim} to {self.ndim - 1}", shown(i))
        axes = tuple(int(i) % self.ndim for i in chosen)
        if len(set(axes)) != len(axes):
            raise ShapeError.expected(where, "axis", "each axis once", axis)
        return axes

    def _apply(self, operation: Operation, **params: Any) -> Tensor:
        return apply(operation, self, **params)  # type: ignore[arg-type]

    # --- arithmetic ----------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return self._with(operations.add, other, "+")

    def __sub__(self, other: Any) -> Tensor:
        return self._with(operations.sub, other, "-")

    def __mul__(self, other: Any) -> Tensor:
        return self._with(operations.mul, other, "*")

    def __truediv__(self, other: Any) -> Tensor:
        return self._with(operations.div, other, "/")

    def __pow__(self, other: Any) -> Tensor:
        return self._with(operations.pow, other, "**")

    def __matmul__(self, other: Any) -> Tensor:
        return self._with(operations.matmul, other, "@")

    def __radd__(self, other: Any) -> Tensor:
        return self._with(operations.add, other, "+", swapped=True)

    def __rsub__(self, other: Any) -> Tensor:
        return self._with(operations.sub, other, "-", swapped=True)

    def __rmul__(self, other: Any) -> Tensor:
        return self._with(operations.mul, other, "*", swapped=True)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._with(operations.div, other, "/", swapped=True)

    def __rpow__(self, other: Any) -> Tensor:
        return self._with(operations.pow, other, "**", swapped=True)

    def __iadd__(self, other: Any) -> Self:
        return self._in_place(self.detach() + other, "+")

    def __isub__(self, other: Any) -> Self:
        return self._in_place(self.detach() - other, "-")

    def __imul__(self, other: Any) -> Self:
        return self._in_place(self.detach() * other, "*")

    def __itruediv__(self, other: Any) -> Self:
        return self._in_place(self.detach() / other, "/")

    def __neg__(self) -> Tensor:
        if self.dtype.kind == "b":
            raise DTypeError.expected("-x", "tensor", "numbers", "booleans", "use x == False")
        return self._apply(operations.neg)

    def __abs__(self) -> Tensor:
        return self._apply(operations.abs)

    def abs(self) -> Tensor:
        """Return |x|."""
        return self._apply(operations.abs)

    def exp(self) -> Tensor:
        """Return e to the x."""
        return self._real()._apply(operations.exp)

    def log(self) -> Tensor:
        """Return the natural logarithm."""
        return self._real()._apply(operations.log)

    def sqrt(self) -> Tensor:
        """Return the square root."""
        return self._real()._apply(operations.sqrt)

    # --- element-wise comparison ----------------------------------------------------------------------------------

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compare(other, "==")

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compare(other, "!=")

    def __lt__(self, other: Any) -> Tensor:
        return self._compare(other, "<")

    def __le__(self, other: Any) -> Tensor:
        return self._compare(other, "<=")

    def __gt__(self, other: Any) -> Tensor:
        return self._compare(other, ">")

    def __ge__(self, other: Any) -> Tensor:
        return self._compare(other, ">=")

    __hash__ = object.__hash__

    def isfinite(self) -> Tensor:
        """Return where the elements are neither infinite nor NaN."""
        return self.like(ops.is_finite(self.backend, self.array))

    # --- shape ---------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        array_key = self.index_array(key)
        parts = array_key if isinstance(array_key, tuple) else (array_key,)
        fancy = any(self.backend.owns(part) for part in parts)
        if not fancy and not any(part is Ellipsis for part in parts):
            array_key = (*parts, Ellipsis)  # NumPy then returns a view even of a single element
        try:
            return self._apply(operations.index, key=array_key, repeats=fancy, view=not fancy)
        except IndexError as error:
            raise ShapeError(f"x[...]: {error}; the tensor has shape {self.shape}.") from None

    def reshape(self, *shape: Any) -> Tensor:
        """Return the elements in C order with another shape; one length may be -1."""
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if not all(is_integer(n) for n in wanted):
            raise ParameterError.expected("reshape", "shape", "ints", shown(wanted))
        wanted = tuple(map(int, wanted))
        known = math.prod(n for n in wanted if n != -1)
        if wanted.count(-1) == 1 and known > 0:
            wanted = tuple(self.size // known if n == -1 else n for n in wanted)
        if math.prod(wanted) != self.size or any(n < 0 for n in wanted):
            raise ShapeError.expected("reshape", "shape", f"{self.size} elements (from {self.shape})", tuple(shape))
        return self._apply(operations.reshape, shape=wanted, view=True)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Return the tensor with the axes from start_dim to end_dim merged into one."""
        if self.ndim == 0:
            return self.reshape(1)
        (first,), (last,) = self._axes(start_dim, "flatten"), self._axes(end_dim, "flatten")
        if first > last:
            raise ShapeError.expected("flatten", "start_dim", f"an axis up to end_dim={end_dim}", start_dim)
        middle = math.prod(self.shape[first : last + 1])
        return self.reshape(*self.shape[:first], middle, *self.shape[last + 1 :])

    def transpose(self, *axes: int) -> Tensor:
        """Return the tensor with its axes in the given order; reversed if no order is given."""
        order = self._axes(axes or tuple(reversed(range(self.ndim))), "transpose")
        if sorted(order) != list(range(self.ndim)):
            raise ShapeError.expected("transpose", "axes", f"each of the {self.ndim} axes once", axes)
        return self._apply(operations.transpose, axes=order, view=True)

    @property
    def T(self) -> Tensor:
        """The tensor with its axes reversed."""
        return self.transpose()

    # --- reductions over ``axis`` (one, several, or all) ---------------------------------------------------------

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the sum."""
        return self._apply(operations.sum, axes=self._axes(axis, "sum"), keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the mean; NaN if there are no elements. DTypeError for integers."""
        if self.dtype.kind != "f":
            raise DTypeError.expected("mean", "tensor", "a floating dtype", self.dtype, "use .to('float32')")
        return self._apply(operations.mean, axes=self._axes(axis, "mean"), keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the largest element; equal maxima share the gradient."""
        return self._apply(operations.maximum, axes=self._nonempty(axis, "max"), keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the smallest element; equal minima share the gradient."""
        return self._apply(operations.minimum, axes=self._nonempty(axis, "min"), keepdims=keepdims)

    def argmax(self, axis: int | None = None) -> Tensor:
        """Return the index of the first maximum along ``axis``, or in the flattened tensor."""
        if axis is not None and not is_integer(axis):
            raise ShapeError.expected("argmax", "axis", "one int, or None", shown(axis))
        self._nonempty(axis, "argmax")
        return self.like(ops.argmax(self.backend, self.array, axis))

    def _nonempty(self, axis: Axis, where: str) -> tuple[int, ...]:
        axes = self._axes(axis, where)
        if any(self.shape[i] == 0 for i in axes):
            raise ShapeError.expected(where, "tensor", "at least one element along the axis", f"shape {self.shape}")
        return axes
