"""A device: its memory, random numbers and description. It has no kernels; those are operations (``backend/ops``).

Dimensions, in this package and everywhere: N images, C channels, H x W pixels, F filters (output channels), KH x KW kernel,
OH x OW output pixels, G groups. Activations are (N, C, H, W), weights (F, C/G, KH, KW), whatever their memory order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any, Self

from gpucnn.backend.dispatch import OPERATIONS, active
from gpucnn.backend.precision import choose_tf32, tf32_chosen
from gpucnn.errors import DeviceError

Array = Any
"""An array of the device's array module, NumPy or CuPy."""


class Device:
    """A CPU or a GPU and its arrays. Use ``get_backend`` to get one.

    ``xp`` is its array module, NumPy or CuPy; ``ran`` counts which implementation of each operation ran. Every
    operation of ``gpucnn.backend.ops`` can be called as a method too: ``device.conv2d(x, ...)`` is
    ``ops.conv2d(device, x, ...)``.
    """

    name = "reference"
    kind = "reference"
    """The kind of device. Only implementations registered for this kind may run."""
    xp: ModuleType
    has_tf32 = False
    """Whether this device can multiply in TF32."""
    captures = False
    """Whether this device can capture a step and replay it."""
    capture_state: Any = None
    """The capture state of this thread while it observes, captures or replays a step; otherwise None."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        operation = OPERATIONS.get(name)
        if operation is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return partial(operation, self)

    def __repr__(self) -> str:
        return f"<gpucnn backend {self.name}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copied model stays on the same device

    def active(self) -> AbstractContextManager[None]:
        """Make this device current for this thread within the block: for array code of your own."""
        return active(self)

    def enter(self) -> AbstractContextManager[Any]:
        """Return the context manager that makes this device the current one of its array module."""
        return nullcontext()

    # --- arrays ------------------------------------------------------------------------------------------------

    def owns(self, array: Any) -> bool:
        """Whether ``array`` lives on this device."""
        return isinstance(array, self.xp.ndarray)

    def asarray(self, data: Any, dtype: Any = None) -> Array:
        """Return ``data`` (nested numbers, or an array of the host) as an array of this device, copied only if needed."""
        return self.xp.asarray(data, dtype=dtype)

    def adopt(self, shared: Any) -> Array:
        """Return an array that shares another library's memory; BufferError or similar if it cannot be shared."""
        array = self.xp.from_dlpack(shared)
        if not array.flags.writeable:
            raise BufferError("it is read-only")
        return array

    def to_host(self, array: Array) -> Any:
        """Return a C-ordered NumPy copy of ``array``."""
        raise NotImplementedError

    def item(self, array: Array) -> Any:
        """Return the only element of ``array`` as a Python number."""
        return array.item()

    def tolist(self, array: Array) -> Any:
        """Return ``array`` as nested Python lists of numbers."""
        return array.tolist()

    def dtype(self, dtype: Any) -> Any:
        """Return ``dtype`` as the array module's own type; TypeError if it is not a dtype."""
        return self.xp.dtype(dtype)

    def export(self, array: Array, **options: Any) -> Any:
        """Return the DLPack capsule of ``array``, for another library to share its memory."""
        return array.__dlpack__(**options)

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes of data fit on the device and leave enough memory for training."""
        return True

    def free_memory(self) -> None:
        """Return memory that no array uses to the system, where the device keeps any."""

    def synchronize(self) -> None:
        """Wait until all work queued on the device is done."""

    def verify(self) -> dict[str, str]:
        """Compare the device's own kernels with the reference, thoroughly; return the fault of each faulty family."""
        return {}

    def warm_up(self) -> None:
        """Compile now the kernels that would otherwise be compiled at first use."""

    def describe(self) -> dict[str, Any]:
        """Return the device's name and properties, for reports."""
        return {"device": self.name}

    def bit_generator(self, key: list[int]) -> Any:
        """Return the array module's counter-based bit generator for ``key``."""
        raise NotImplementedError

    # --- precision ---------------------------------------------------------------------------------------------

    @property
    def in_tf32(self) -> bool:
        """Whether this thread multiplies in TF32 on this device now."""
        return self.has_tf32 and tf32_chosen()

    @contextmanager
    def tf32(self, enabled: bool = True) -> Iterator[None]:
        """Use TF32 tensor cores for this thread's float32 matrix products and convolutions within the block.

        The factors are rounded to a mantissa of 10 bits (float32 has 23). Sums and stored values stay float32.
        ``enabled=False`` selects float32 on every device. DeviceError if the device has no TF32 tensor cores.

        >>> from gpucnn.backend import get_backend
        >>> backend = get_backend("cpu")
        >>> with backend.tf32(enabled=backend.has_tf32):
        ...     backend.in_tf32
        False
        """
        if enabled and not self.has_tf32:
            needed = "a CUDA device of compute capability 8.0 (Ampere) or newer"
            raise DeviceError.expected("tf32", "device", needed, self.name, "compute in float32 here")
        with choose_tf32(enabled):
            yield
