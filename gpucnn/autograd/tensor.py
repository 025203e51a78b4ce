"""Tensor: an array on a device, with its gradient and its node of the tape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from gpucnn.autograd import operations
from gpucnn.autograd.operators import Operators, refuse_lost_gradient
from gpucnn.autograd.tape import Node, Version, apply, backpropagate, is_grad_enabled
from gpucnn.backend import Array, Backend, get_backend, ops
from gpucnn.checks import is_integer, shown
from gpucnn.errors import DTypeError, GraphError, MixedDeviceError, ParameterError, ShapeError, kind_of


class Tensor(Operators):
    """An array with a gradient. Make one with ``gpucnn.tensor``; the constructor wraps an array without a copy.

    ``array`` is the NumPy or CuPy array, ``backend`` its device, ``grad`` the gradient that ``backward`` summed, a Tensor
    of the same shape and dtype, or None.
    """

    __slots__ = ("__weakref__", "_grad", "array", "backend", "node", "requires_grad", "version")
    __hash__ = object.__hash__
    __array_ufunc__ = None  # NumPy must not apply `array * tensor` to each element

    def __init__(self, array: Array, backend: Backend, requires_grad: bool = False) -> None:
        self.array = array
        self.backend = backend
        self.requires_grad = requires_grad
        self.node: Node | None = None
        self._grad: Tensor | None = None
        self.version = Version()

    def __reduce__(self) -> Any:
        """Pickle values and device. The copy has its own memory, no gradient and no graph."""
        return _restored, (type(self), self.numpy(), self.backend, self.requires_grad)

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = type(self)(self.detach().clone().array, self.backend, self.requires_grad)
        memo[id(self)] = copy
        return copy

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

    @property
    def device(self) -> str:
        return self.backend.name

    @property
    def is_leaf(self) -> bool:
        """Whether it is not the result of a recorded operation."""
        return self.node is None

    def __len__(self) -> int:
        if self.ndim == 0:
            raise ShapeError.expected("len", "tensor", "at least one dimension", "a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        text = ops.as_text(self.backend, self.array, "tensor(")
        notes = [] if str(self.dtype) in ("float32", "int64", "bool") else [f"dtype={self.dtype}"]
        if self.device != "cpu":
            notes.append(f"device='{self.device}'")
        if self.node is not None:
            notes.append(f"from {self.node.name}")
        elif self.requires_grad:
            notes.append("requires_grad=True")
        return f"tensor({', '.join([text, *notes])})"

    # --- conversion ----------------------------------------------------------------------------------------------

    def numpy(self) -> Any:
        """Return a C-ordered NumPy copy. Changing the copy does not change the tensor."""
        return self.backend.to_host(self.array)

    def item(self) -> Any:
        """Return the only element as a Python number; ShapeError unless there is exactly one."""
        if self.size != 1:
            raise ShapeError.expected("item", "tensor", "one element", f"shape {self.shape}", "use .numpy()")
        return self.backend.item(self.array)

    def tolist(self) -> Any:
        """Return nested Python lists of numbers."""
        return self.backend.tolist(self.array)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DTypeError.expected("index", "tensor", "an integer", f"dtype {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __format__(self, spec: str) -> str:
        """Format the only element, as in f"{x:.4f}"; without a format spec, return ``repr``."""
        return format(self.item(), spec) if spec else repr(self)

    def __round__(self, digits: int | None = None) -> Any:
        """Return ``round(x, digits)``: the only element, rounded, as a Python number."""
        return round(self.item(), digits)

    def __array_function__(self, function: Any, kinds: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Call the method of the same name for ``numpy.mean(x)`` and similar; DTypeError if there is none."""
        method = getattr(type(self), function.__name__, None)
        if isinstance(method, property) and len(arguments) == 1 and not options:
            return getattr(self, function.__name__)
        if not callable(method) or not arguments or arguments[0] is not self:
            name = f"numpy.{function.__name__}"
            raise DTypeError(f"{name} takes NumPy arrays, not a Tensor. Use tensor.numpy(), or a method of the tensor.")
        try:
            return method(*arguments, **options)
        except TypeError as error:
            if isinstance(error, DTypeError):
                raise
            raise DTypeError(f"numpy.{function.__name__} of a Tensor: {error}. Use tensor.numpy().") from None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise DTypeError("a Tensor is not converted to a NumPy array silently. Use tensor.numpy().")

    def __dlpack__(self, **options: Any) -> Any:
        """Return the DLPack capsule for another library's ``from_dlpack``, which then shares the memory."""
        if self.requires_grad:
            raise BufferError("a Tensor that takes part in gradients shares no memory. Use tensor.detach().")
        return self.backend.export(self.array, **options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> Any:
        if self.requires_grad:
            raise BufferError("a Tensor that takes part in gradients shares no memory. Use tensor.detach().")
        return self.array.__cuda_array_interface__  # AttributeError on the CPU, as the interface requires

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
        capture = self.backend.recording
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


def check_gradient(tensor: Tensor, gradient: Any, where: str, argument: str) -> None:
    """Raise unless ``gradient`` is a Tensor of the shape, dtype and device of ``tensor``."""
    if not isinstance(gradient, Tensor):
        raise DTypeError.expected(where, argument, "a Tensor", kind_of(gradient), "wrap it in gpucnn.tensor(...)")
    if gradient.backend is not tensor.backend:
        raise MixedDeviceError.expected(where, argument, f"a tensor on {tensor.device}", gradient.device)
    if gradient.shape != tensor.shape:
        raise ShapeError.expected(where, argument, f"shape {tensor.shape}", gradient.shape)
    if gradient.dtype != tensor.dtype:
        raise DTypeError.expected(where, argument, f"dtype {tensor.dtype}", gradient.dtype)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join the tensors along ``axis``. ShapeError or DTypeError unless all other lengths and the dtypes agree.

    >>> concatenate([tensor([1.0]), tensor([2.0, 3.0])]).tolist()
    [1.0, 2.0, 3.0]
    """
    if not isinstance(tensors, (tuple, list)) or not tensors or not all(isinstance(part, Tensor) for part in tensors):
        raise ParameterError.expected("concatenate", "tensors", "at least one Tensor", repr(tensors)[:60])
    first = tensors[0]
    if not is_integer(axis) or not -first.ndim <= axis < first.ndim:
        raise ShapeError.expected("concatenate", "axis", f"an axis of shape {first.shape}", shown(axis))
    axis = int(axis) % first.ndim
    for part in tensors:
        if part.dtype != first.dtype:
            raise DTypeError.expected("concatenate", "tensors", f"one dtype, {first.dtype}", part.dtype)
        if part.ndim != first.ndim or any(
            n != m for i, (n, m) in enumerate(zip(part.shape, first.shape, strict=True)) if i != axis
        ):
            raise ShapeError.expected(
                "concatenate", "tensors", f"shapes like {first.shape} but for axis {axis}", part.shape
            )
    return apply(operations.concatenation, *tensors, axis=axis)


def tensor(data: Any, dtype: Any = None, device: str | Backend | None = None, requires_grad: bool = False) -> Tensor:
    """Return a new tensor with a copy of ``data``: numbers, nested lists, a NumPy array, a device array or a Tensor.

    Python floats become float32, Python ints int64; arrays keep their dtype. ``device`` is "cpu", "cuda", "cuda:N" or
    "auto"; by default the one chosen with ``gpucnn.use``. Raises DTypeError if ``data`` is not numeric, or if
    ``requires_grad`` is asked of integers.

    >>> tensor([[1.0, 2.0], [3.0, 4.0]]).shape
    (2, 2)
    """
    backend = get_backend(device)
    if isinstance(data, Tensor):
        data = data.detach().to(backend).array
    try:
        array = ops.array(backend, data, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise DTypeError.expected("tensor", "data", "numbers in a regular shape", f"{data!r:.60} ({error})") from None
    if dtype is None and array.dtype == "float64" and not hasattr(data, "dtype"):
        array = ops.cast(backend, array, "float32")
    if array.dtype.kind not in "fiub":
        raise DTypeError.expected("tensor", "data", "numbers", f"dtype {array.dtype}")
    result = Tensor(array, backend)
    return result.requires_grad_() if requires_grad else result


def _restored(kind: type[Tensor], values: Any, backend: Backend, requires_grad: bool) -> Tensor:
    """Return an unpickled Tensor with its own memory. That of ``values`` may be a read-only file."""
    return kind(tensor(values, device=backend).array, backend, requires_grad)
