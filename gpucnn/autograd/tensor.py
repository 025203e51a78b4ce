"""Tensor: an array on a device, with its gradient, its node of the tape and its operators.

The operators' computations and gradients are in ``operations.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self, TypeAlias

from gpucnn.autograd import operations
from gpucnn.autograd.arguments import (
    Axis,
    axes_of,
    clamp_bounds,
    dtype_beside,
    either_name,
    expanded_shape,
    index_of,
    lengths_of,
    nonempty_axes,
)
from gpucnn.autograd.tape import (
    Node,
    Operation,
    Version,
    apply,
    backpropagate,
    check_gradient,
    is_grad_enabled,
    no_grad,
    refuse_lost_gradient,
)
from gpucnn.autograd.values import Values
from gpucnn.backend import Array, Backend, get_backend, ops
from gpucnn.checks import check_flag, check_number, is_count, is_flag, is_integer, is_number, shown
from gpucnn.errors import DTypeError, GpucnnError, GraphError, MixedDeviceError, ParameterError, ShapeError, kind_of

Real: TypeAlias = float
"""The class Tensor has a method called float."""


class Tensor(Values):
    """An array with a gradient. Make one with ``gpucnn.tensor``; the constructor wraps an array without a copy.

    ``array`` is the NumPy or CuPy array, ``backend`` its device, ``grad`` the gradient that ``backward`` summed, a Tensor
    of the same shape and dtype, or None.

    Arithmetic is as in NumPy, with broadcasting; the other operand is a Tensor or a Python number. Raises DTypeError for
    operands of two floating dtypes, ShapeError for shapes that do not broadcast, MixedDeviceError for operands on two
    devices.
    """

    __slots__ = ("__weakref__", "_grad", "version")
    __hash__ = object.__hash__

    def __init__(self, array: Array, backend: Backend, requires_grad: bool = False) -> None:
        self.array = array
        self.backend = backend
        self.requires_grad = requires_grad
        self.node: Node | None = None
        self._grad: Tensor | None = None
        self.version = Version()

    # --- properties ----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.array.shape
        return shape

    @property
    def dtype(self) -> Any:
        """The NumPy dtype of the elements."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return len(self.array.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self.array.size)

    def dim(self) -> int:
        """Return the number of axes."""
        return self.ndim

    def numel(self) -> int:
        """Return the number of elements."""
        return self.size

    @property
    def data(self) -> Tensor:
        """The values without their gradient: a tensor that shares the memory. Assigning to it copies values in."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor) or value.array is not self.array:  # x.data -= y assigns what it has changed
            with no_grad():
                self.copy_(value)

    @property
    def device(self) -> str:
        return self.backend.name

    @property
    def is_leaf(self) -> bool:
        """Whether it is not the result of a recorded operation."""
        return self.node is None

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    # --- devices and dtypes --------------------------------------------------------------------------------------

    def to(self, target: Any) -> Tensor:
        """Return the tensor on another device (``"cpu"``, ``"cuda"``) or with another dtype; itself if nothing changes.

        Gradients flow back through it.
        """
        if isinstance(target, Backend) or (isinstance(target, str) and target.split(":")[0] in ("cpu", "cuda", "auto")):
            return self._to_device(get_backend(target))
        return self._to_dtype(target)

    def cpu(self) -> Tensor:
        """Return the tensor on the CPU."""
        return self.to("cpu")

    def cuda(self) -> Tensor:
        """Return the tensor on the first GPU."""
        return self.to("cuda")

    def float(self) -> Tensor:
        """Return the tensor in float32."""
        return self.to("float32")

    def double(self) -> Tensor:
        """Return the tensor in float64."""
        return self.to("float64")

    def half(self) -> Tensor:
        """Return the tensor in float16."""
        return self.to("float16")

    def long(self) -> Tensor:
        """Return the tensor in int64."""
        return self.to("int64")

    def _to_dtype(self, dtype: Any) -> Tensor:
        try:
            wanted = None if dtype is None else self.backend.dtype(dtype)
        except TypeError:
            wanted = None
        if wanted is None or wanted.kind not in "fiub":
            raise ParameterError.expected("to", "target", "a device or a dtype of numbers", repr(dtype))
        return self if wanted == self.dtype else apply(operations.to_dtype, self, dtype=wanted)

    def _to_device(self, target: Backend) -> Tensor:
        if target is self.backend:
            return self
        moved = apply(operations.to_device, self, target=target)
        moved.backend = target
        return moved

    # --- gradients -----------------------------------------------------------------------------------------------

    @property
    def grad(self) -> Tensor | None:
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            check_gradient(self, value, "grad", "value")
        self._grad = value

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set ``requires_grad`` and return the tensor. DTypeError for integers, GraphError for an operation's result."""
        if requires_grad and self.dtype.kind != "f":
            raise DTypeError.expected("requires_grad_", "tensor", "a floating dtype", self.dtype)
        if not self.is_leaf:
            raise GraphError("requires_grad_: this tensor is the result of an operation. Use .detach() first.")
        self.requires_grad = requires_grad
        return self

    def detach(self) -> Tensor:
        """Return a tensor that shares the memory but is not on the tape."""
        return self.like(self.array, shares_memory=True)

    def clone(self) -> Tensor:
        """Return a copy through which gradients flow."""
        return apply(operations.clone, self)

    def like(self, array: Array, shares_memory: bool = False) -> Tensor:
        """Return a tensor of ``array`` on the same device that is not on the tape."""
        other = Tensor(array, self.backend)
        if shares_memory:
            other.version = self.version
        return other

    def gradient_room(self) -> Array | None:
        """Return the store's memory for the first gradient, or None if there is none or it is filled."""
        return None

    def fill_gradient_room(self) -> None:
        """Note that the first gradient has been copied into the buffer."""

    def accumulate_grad(self, gradient: Array) -> None:
        """Add ``gradient`` to ``grad``. The tape calls this at each leaf."""
        if self._grad is None:
            self._grad = Tensor(ops.copy(self.backend, gradient), self.backend)
        else:
            ops.add_to(self.backend, self._grad.array, gradient)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> None:
        """Call ``hook(gradient)`` when this result's gradient is computed. A return value other than None replaces it."""
        if self.node is None:
            raise GraphError(
                "register_hook: only the result of a recorded operation has hooks. A leaf's gradient is in .grad."
            )

        def on_array(gradient: Array) -> Array | None:
            replacement = hook(Tensor(gradient[...], self.backend))
            if replacement is None:
                return None
            check_gradient(self, replacement, "register_hook", "what the hook returned")
            return replacement.array

        self.node.hooks.append(on_array)

    def backward(self, gradient: Tensor | None = None) -> None:
        """Add d self / d leaf to the ``grad`` of every leaf that requires a gradient, and free the graph.

        ``gradient`` (same shape and dtype) is required if self has more than one element. GraphError if nothing was
        recorded or the graph was already used.
        """
        if not self.requires_grad:
            raise GraphError(
                "backward: this tensor does not require a gradient. Was it computed under no_grad(), or from tensors "
                "without requires_grad=True?"
            )
        if gradient is None:
            if self.size != 1:
                raise GraphError(
                    f"backward: expected a scalar, got shape {self.shape}. Use .sum() or .mean(), or pass gradient=."
                )
            seed = ops.ones_like(self.backend, self.array)
        else:
            check_gradient(self, gradient, "backward", "gradient")
            seed = gradient.array
        if self.node is None:
            self.accumulate_grad(seed)
        else:
            backpropagate(self.node, seed, self.backend)

    # --- in-place changes ----------------------------------------------------------------------------------------

    def refuse_in_place(self, what: str) -> None:
        """Raise GraphError if an in-place change would make a gradient wrong; otherwise note the change."""
        if self.requires_grad and is_grad_enabled():
            raise GraphError(
                f"{what}: a tensor that takes part in gradients cannot be changed in place. "
                "Do it under no_grad(), or work on x.detach().clone()."
            )
        self.note_change()

    def note_change(self) -> None:
        """Note that the memory changed, so that backward refuses a gradient that used the old values."""
        self.version.count += 1
        capture = self.backend.capture_state
        if capture is not None:
            capture.note_change(self.version)

    def __setitem__(self, key: Any, value: Any) -> None:
        where = "x[...] = value"
        index, new = self.index_array(key), self.operand(value, where)
        refuse_lost_gradient(new, where)
        if new.backend is not self.backend:
            raise MixedDeviceError.expected(where, "value", f"a tensor on {self.device}", new.device)
        self.refuse_in_place(where)
        try:
            ops.assign(self.backend, self.array, index, new.array)
        except (IndexError, ValueError) as error:
            raise ShapeError(f"{where}: {error}; x has shape {self.shape}, the value {new.shape}.") from None

    def copy_(self, value: Tensor) -> Self:
        """Copy ``value`` (same shape; any device or dtype) into this tensor."""
        if not isinstance(value, Tensor):
            raise DTypeError.expected("copy_", "value", "a Tensor", kind_of(value), "use gpucnn.tensor(...)")
        if value.shape != self.shape:
            raise ShapeError.expected("copy_", "value", f"shape {self.shape}", value.shape)
        refuse_lost_gradient(value, "copy_")
        self.refuse_in_place("copy_")
        ops.fill(self.backend, self.array, value.detach().to(self.backend).array)
        return self

    # --- operands ------------------------------------------------------------------------------------------------

    def operand(self, value: Any, where: str) -> Tensor:
        """Return ``value`` as a tensor. Numbers and integer tensors take self's dtype if it can represent them.

        A float with an integer tensor becomes float32, an int with a boolean tensor int64.
        """
        if isinstance(value, Tensor):
            if self.dtype.kind != "f" or value.dtype == self.dtype:
                return value
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
            try:
                return self.like(self.backend.asarray(value, dtype_beside(value, self.dtype)))
            except OverflowError:
                raise DTypeError.expected(where, "operand", f"a number that fits {self.dtype}", value) from None
        raise DTypeError.expected(
            where, "operand", "a Tensor or a number", kind_of(value), "wrap arrays in gpucnn.tensor(...)"
        )

    def index_array(self, key: Any) -> Any:
        """Return an index expression with its tensors, lists and host arrays replaced by arrays of this device."""
        return index_of(key, self.backend)

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
        return self if self.dtype.kind == "f" else self._to_dtype("float32")

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

    def _apply(self, operation: Operation, **params: Any) -> Tensor:
        return apply(operation, self, **params)

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

    def add_(self, other: Any, *, alpha: Real = 1) -> Self:
        """Add ``other``, ``alpha`` times, in place; return self."""
        return self.__iadd__(other if alpha == 1 else other * alpha)

    def sub_(self, other: Any, *, alpha: Real = 1) -> Self:
        """Subtract ``other``, ``alpha`` times, in place; return self."""
        return self.__isub__(other if alpha == 1 else other * alpha)

    def mul_(self, other: Any) -> Self:
        """Multiply by ``other`` in place; return self."""
        return self.__imul__(other)

    def div_(self, other: Any) -> Self:
        """Divide by ``other`` in place; return self."""
        return self.__itruediv__(other)

    def zero_(self) -> Self:
        """Set all elements to zero in place; return self."""
        return self.copy_(self.like(ops.zeros(self.backend, self.shape, self.dtype)))

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

    def clamp(self, min: Real | Tensor | None = None, max: Real | Tensor | None = None) -> Tensor:
        """Return x limited to [min, max], numbers or tensors; the gradient at both ends is 1.

        DTypeError for a float and integers.
        """
        if isinstance(min, Tensor) or isinstance(max, Tensor):
            low = self if min is None else self._chosen(min, "<")
            return low if max is None else low._chosen(max, ">")
        low, high = clamp_bounds(min, max, self.dtype)
        return self._apply(operations.clip, low=low, high=high)

    def _chosen(self, bound: Any, symbol: str) -> Tensor:
        """Return the bound where self is beyond it, else self; NaN in either stays."""
        limit = self.operand(bound, "clamp")
        beyond = self._compare(limit, symbol)
        return apply(operations.where, beyond, limit, self)

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
        wanted = lengths_of(shape, "reshape")
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
        (first,), (last,) = axes_of(start_dim, self.ndim, "flatten"), axes_of(end_dim, self.ndim, "flatten")
        if first > last:
            raise ShapeError.expected("flatten", "start_dim", f"an axis up to end_dim={end_dim}", start_dim)
        shape = self.shape
        merged = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
        return self._apply(operations.reshape, shape=merged, view=True)

    def transpose(self, *axes: int) -> Tensor:
        """Return the tensor with two axes exchanged; or with all in the given order, reversed if none is given."""
        if len(axes) == 2:
            first, second = (next(iter(axes_of(axis, self.ndim, "transpose")), 0) for axis in axes)
            swapped = {first: second, second: first}
            return self.permute(*(swapped.get(i, i) for i in range(self.ndim)))
        return self.permute(*(axes or reversed(range(self.ndim))))

    def permute(self, *axes: Any) -> Tensor:
        """Return the tensor with its axes in the given order."""
        given = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        order = axes_of(tuple(given), self.ndim, "transpose")
        if sorted(order) != list(range(self.ndim)):
            raise ShapeError.expected("transpose", "axes", f"each of the {self.ndim} axes once", axes)
        return self._apply(operations.transpose, axes=order, view=True)

    def t(self) -> Tensor:
        """Return the transposed matrix; vectors and numbers are unchanged. ShapeError for more than two axes."""
        if self.ndim > 2:
            raise ShapeError.expected("t", "tensor", "at most two axes", f"shape {self.shape}", "use .transpose(a, b)")
        return self.transpose()

    def view(self, *shape: Any) -> Tensor:
        """Return ``reshape``'s result: a copy if the memory layout does not allow a view."""
        return self.reshape(*shape)

    def unsqueeze(self, dim: int) -> Tensor:
        """Return the tensor with a new axis of length 1 before axis ``dim``."""
        if not is_integer(dim) or not -self.ndim - 1 <= dim <= self.ndim:
            raise ShapeError.expected("unsqueeze", "dim", f"an int from {-self.ndim - 1} to {self.ndim}", shown(dim))
        place = int(dim) % (self.ndim + 1)
        return self.reshape(*self.shape[:place], 1, *self.shape[place:])

    def squeeze(self, dim: Axis = None) -> Tensor:
        """Return the tensor without axes of length 1: all, or those of ``dim`` that have this length."""
        axes = axes_of(dim, self.ndim, "squeeze") if self.ndim else ()
        return self.reshape(tuple(n for i, n in enumerate(self.shape) if n != 1 or i not in axes))

    def expand(self, *shape: Any) -> Tensor:
        """Return the tensor repeated along axes of length 1 and new first axes; -1 keeps a length. It has its own memory."""
        wanted = lengths_of(shape, "expand")
        filled = expanded_shape(wanted, self.shape)
        return self if filled == self.shape else self._apply(operations.broadcast, shape=filled)

    def repeat(self, *times: Any) -> Tensor:
        """Return the tensor repeated this many times along each axis; more numbers add axes in front."""
        counts = lengths_of(times, "repeat")
        if len(counts) < self.ndim or any(n < 0 for n in counts):
            words = f"a count for each of the {self.ndim} axes, and perhaps new first ones"
            raise ShapeError.expected("repeat", "times", words, counts)
        own = (*(1,) * (len(counts) - self.ndim), *self.shape)
        spread = self.reshape(tuple(n for length in own for n in (1, length)))
        repeated = spread.expand(tuple(n for pair in zip(counts, own, strict=True) for n in pair))
        return repeated.reshape(tuple(n * m for n, m in zip(counts, own, strict=True)))

    @property
    def T(self) -> Tensor:
        """The tensor with its axes reversed."""
        return self.transpose()

    # --- reductions over ``axis`` (one, several, or all) ---------------------------------------------------------

    def sum(self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Return the sum."""
        axes = axes_of(either_name(axis, dim, "sum"), self.ndim, "sum")
        return self._apply(operations.sum, axes=axes, keepdims=keepdims or keepdim)

    def mean(self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Return the mean; NaN if there are no elements. DTypeError for integers."""
        if self.dtype.kind != "f":
            raise DTypeError.expected("mean", "tensor", "a floating dtype", self.dtype, "use .to('float32')")
        axes = axes_of(either_name(axis, dim, "mean"), self.ndim, "mean")
        return self._apply(operations.mean, axes=axes, keepdims=keepdims or keepdim)

    def max(self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Return the largest element; equal maxima share the gradient."""
        axes = nonempty_axes(either_name(axis, dim, "max"), self.shape, "max")
        return self._apply(operations.maximum, axes=axes, keepdims=keepdims or keepdim)

    def min(self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Return the smallest element; equal minima share the gradient."""
        axes = nonempty_axes(either_name(axis, dim, "min"), self.shape, "min")
        return self._apply(operations.minimum, axes=axes, keepdims=keepdims or keepdim)

    def argmax(
        self, axis: int | None = None, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
    ) -> Tensor:
        """Return the index of the first maximum along ``axis``, or in the flattened tensor."""
        axis = either_name(axis, dim, "argmax")
        if axis is not None and not is_integer(axis):
            raise ShapeError.expected("argmax", "axis", "one int, or None", shown(axis))
        nonempty_axes(axis, self.shape, "argmax")
        if not self.ndim:
            return self.reshape(1).argmax()
        found = self._apply(operations.argmax, axis=axis)
        if not (keepdims or keepdim):
            return found
        return found.reshape((1,) * self.ndim) if axis is None else found.unsqueeze(int(axis) % self.ndim)

    def var(
        self, axis: Axis = None, keepdims: bool = False, *, correction: Real | None = None, unbiased: bool = True,
        dim: Axis = None, keepdim: bool = False,
    ) -> Tensor:  # fmt: skip
        """Return the variance: the sum of squared differences from the mean, divided by their number minus ``correction``.

        ``correction`` is 1 by default, or 0 with unbiased=False.
        """
        axes = axes_of(either_name(axis, dim, "var"), self.ndim, "var")
        less = int(check_flag(unbiased, "var", "unbiased")) if correction is None else correction
        count = math.prod(self.shape[i] for i in axes) - check_number(less, "var", "correction")
        squares = (self - self.mean(axes, True)) ** 2
        total = squares.sum(axes, keepdims or keepdim)
        return total / count if count > 0 else total * math.nan

    def std(
        self, axis: Axis = None, keepdims: bool = False, *, correction: Real | None = None, unbiased: bool = True,
        dim: Axis = None, keepdim: bool = False,
    ) -> Tensor:  # fmt: skip
        """Return the standard deviation, the root of ``var``."""
        options: dict[str, Any] = {"correction": correction, "unbiased": unbiased, "dim": dim, "keepdim": keepdim}
        return self.var(axis, keepdims, **options).sqrt()

    def sort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> Sorted:
        """Return (values, indices) along an axis. The sort is always stable; NaN counts as the largest."""
        return self._sorted(dim, descending, "sort")

    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Sorted:
        """Return (values, indices) of the k largest elements along an axis, or the smallest; always sorted."""
        if not is_count(k, 0):
            raise ParameterError.expected("topk", "k", "a whole number from 0 on", shown(k))
        return self._sorted(dim, largest, "topk", k)

    def _sorted(self, dim: int, descending: bool, where: str, most: int | None = None) -> Sorted:
        if self.ndim == 0:
            values, indices = self.reshape(1)._sorted(-1, descending, where, most)
            return Sorted(values.reshape(()), indices.reshape(()))
        if not is_integer(dim) or not -self.ndim <= dim < self.ndim:
            raise ShapeError.expected(where, "dim", f"an int from {-self.ndim} to {self.ndim - 1}", shown(dim))
        axis = int(dim) % self.ndim
        if most is not None and most > self.shape[axis]:
            raise ShapeError.expected(where, "k", f"at most the {self.shape[axis]} elements along axis {axis}", most)
        indices = self._apply(operations.order, axis=axis, descending=descending)
        if most is not None:
            indices = indices[(*(slice(None),) * axis, slice(most))]
        return Sorted(apply(operations.take_along, self, indices, axis=axis), indices)


class Sorted(NamedTuple):
    """Elements in order, and where they were."""

    values: Tensor
    indices: Tensor
