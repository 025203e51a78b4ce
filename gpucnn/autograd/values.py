"""A tensor's values for Python, NumPy and other libraries: numbers, text, host arrays, shared memory."""

from __future__ import annotations

from typing import Any, Self

from gpucnn.backend import Array, Backend, ops
from gpucnn.errors import DTypeError, ShapeError


class Values:
    """The base of Tensor: an array on a device, seen from outside."""

    __slots__ = ("array", "backend", "node", "requires_grad")
    __array_ufunc__ = None  # NumPy must not apply `array * tensor` to each element
    array: Array
    backend: Backend
    node: Any
    """The Node of the tape that made it, or None."""
    requires_grad: bool

    def __reduce__(self) -> Any:
        """Pickle values and device. The copy has its own memory, no gradient and no graph."""
        return _restored, (type(self), self.numpy(), self.backend, self.requires_grad)

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        kind: Any = type(self)
        copy: Self = kind(ops.copy(self.backend, self.array), self.backend, self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __len__(self) -> int:
        if self.array.ndim == 0:
            raise ShapeError.expected("len", "tensor", "at least one dimension", "a 0-d tensor")
        return int(self.array.shape[0])

    def __repr__(self) -> str:
        text = ops.as_text(self.backend, self.array, "tensor(")
        notes = [] if str(self.array.dtype) in ("float32", "int64", "bool") else [f"dtype={self.array.dtype}"]
        if self.backend.name != "cpu":
            notes.append(f"device='{self.backend.name}'")
        if self.node is not None:
            notes.append(f"from {self.node.name}")
        elif self.requires_grad:
            notes.append("requires_grad=True")
        return f"tensor({', '.join([text, *notes])})"

    def numpy(self) -> Any:
        """Return a C-ordered NumPy copy. Changing the copy does not change the tensor."""
        return self.backend.to_host(self.array)

    def item(self) -> Any:
        """Return the only element as a Python number; ShapeError unless there is exactly one."""
        if self.array.size != 1:
            raise ShapeError.expected("item", "tensor", "one element", f"shape {self.array.shape}", "use .numpy()")
        return self.backend.item(self.array)

    def tolist(self) -> Any:
        """Return nested Python lists of numbers."""
        return self.backend.tolist(self.array)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.array.dtype.kind not in "iu":
            raise DTypeError.expected("index", "tensor", "an integer", f"dtype {self.array.dtype}")
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


def _restored(kind: Any, values: Any, backend: Backend, requires_grad: bool) -> Any:
    """Return an unpickled Tensor with its own memory. That of ``values`` may be a read-only file."""
    return kind(ops.array(backend, values), backend, requires_grad)
