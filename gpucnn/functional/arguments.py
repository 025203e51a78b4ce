"""Parsing arguments: sizes as an int or a pair, all forms of padding, and the checks that all operations share."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

from gpucnn.autograd import Tensor
from gpucnn.backend.geometry import Pair, Sides, Window
from gpucnn.checks import is_count, is_integer, shown
from gpucnn.errors import DTypeError, MixedDeviceError, ParameterError, ShapeError, kind_of

PairLike = int | tuple[int, ...] | list[int]
Single = int | tuple[int] | list[int]
Padding = int | tuple[int, ...] | list[int] | str
P = ParamSpec("P")
T = TypeVar("T")


def pair(value: PairLike, where: str, argument: str, least: int = 1) -> Pair:
    """Return an int or a pair of ints as (height, width); ParameterError for other values or less than ``least``."""
    values: tuple[Any, ...] = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(is_count(v, least) for v in values):
        raise ParameterError.expected(where, argument, f"an int or a pair of ints of at least {least}", shown(value))
    return int(values[0]), int(values[1])


def single(value: Any, where: str, argument: str, least: int = 1) -> int:
    """Return an int, also from a tuple or list of one; ParameterError for other values or less than ``least``."""
    only = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
    if not is_count(only, least):
        raise ParameterError.expected(where, argument, f"an int of at least {least}", shown(value))
    return int(only)


def sides(padding: Padding, window: Window, H: int, W: int, where: str) -> Sides:
    """Return padding as (top, bottom, left, right) for an H x W image.

    ``valid`` is no padding. ``full`` pads so that every kernel element reaches every pixel. ``same`` pads so that the output
    has ceil(n / stride) pixels, with the odd row and column at the bottom and right.
    """
    if isinstance(padding, str):
        (EH, EW), (SH, SW) = window.extent, window.stride
        if padding == "valid":
            return 0, 0, 0, 0
        if padding == "full":
            return EH - 1, EH - 1, EW - 1, EW - 1
        if padding == "same":
            rows = max((-(-H // SH) - 1) * SH + EH - H, 0)
            columns = max((-(-W // SW) - 1) * SW + EW - W, 0)
            return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    elif isinstance(padding, (tuple, list)) and len(padding) == 4:
        if all(is_count(p, 0) for p in padding):
            top, bottom, left, right = map(int, padding)
            return top, bottom, left, right
    elif is_integer(padding) or (isinstance(padding, (tuple, list)) and len(padding) == 2):
        rows, columns = pair(padding, where, "padding", least=0)
        return rows, rows, columns, columns
    raise ParameterError.expected(
        where,
        "padding",
        "an int, a pair, four sides (top, bottom, left, right) of at least 0, or 'valid', 'same', 'full'",
        shown(padding),
    )


def plain_padding(padding: Padding) -> Padding:
    """Return the padding with Python's ints, so that it prints and is saved as such."""
    if isinstance(padding, str):
        return padding
    return tuple(map(int, padding)) if isinstance(padding, (tuple, list)) else int(padding)


def remembered(function: Callable[P, T]) -> Callable[P, T]:
    """Return ``function`` with its latest results kept: for checks of arguments that are the same at each call of a layer.

    With a list, which cannot be a key, ``function`` is called each time.
    """
    kept = lru_cache(maxsize=1024, typed=True)(function)

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        try:
            return kept(*args, **options)  # type: ignore[arg-type]
        except TypeError:
            return function(*args, **options)

    return call


@remembered
def read_window(
    where: str,
    image_size: Pair,
    kernel: PairLike,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
    exact: bool = False,
) -> Window:
    """Check the arguments and return the window that they describe for an image of this (H, W).

    ShapeError if the window does not fit or, with ``exact``, if the stride leaves rows or columns over.
    """
    window = Window(
        pair(kernel, where, "kernel_size"),
        pair(stride, where, "stride"),
        (0, 0, 0, 0),
        pair(dilation, where, "dilation"),
    )
    window = window.with_padding(sides(padding, window, *image_size, where))
    try:
        window.output_size(*image_size)
    except ShapeError as error:
        raise error.at(where) from None
    if exact and any(window.unused(*image_size)):
        rows, columns = window.unused(*image_size)
        raise ShapeError.expected(
            where,
            "image",
            "a size that the stride divides (exact=True)",
            f"{rows} rows and {columns} columns left over",
            "change padding, or drop exact=True to floor",
        )
    return window


def image_batch(x: Tensor, where: str) -> tuple[Tensor, int]:
    """Return a batch, a single (C, H, W) image or an (H, W) matrix as (N, C, H, W), and how many axes that added."""
    check_tensor(x, where)
    ndim = x.ndim
    if ndim == 4:
        return x, 0
    if ndim not in (2, 3):
        raise ShapeError.expected(
            where, "input", "(N, C, H, W), (C, H, W) or (H, W)", f"{ndim} dimensions, shape {x.shape}", "reshape it"
        )
    return x.reshape(*(1,) * (4 - ndim), *x.shape), 4 - ndim


def unbatch(y: Tensor, added: int) -> Tensor:
    """Remove the axes that ``image_batch`` added; where channels became filters, no more than the batch axis."""
    return y.reshape(*y.shape[added:]) if added else y


def image_row(x: Tensor, where: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return sequences (N, C, L), or one (C, L), as images of one row, and a function that converts results back."""
    check_tensor(x, where)
    if x.ndim not in (2, 3):
        raise ShapeError.expected(where, "input", "(N, C, L) or (C, L)", f"shape {x.shape}", "reshape it")
    batch = x.shape if x.ndim == 3 else (1, *x.shape)
    return (
        x.reshape(*batch[:2], 1, batch[2]),
        lambda y: y.reshape(*y.shape[:2], y.shape[3]) if x.ndim == 3 else y.reshape(y.shape[1], y.shape[3]),
    )


def row_padding(padding: Single | str, where: str) -> Padding:
    """Return the padding of a sequence as padding of an image with one row."""
    return padding if isinstance(padding, str) else (0, single(padding, where, "padding", least=0))


def check_tensor(x: Any, where: str, argument: str = "input") -> None:
    """Raise DTypeError unless ``x`` is a Tensor."""
    if not isinstance(x, Tensor):
        raise DTypeError.expected(where, argument, "a Tensor", kind_of(x), "wrap it in gpucnn.tensor(...)")


def check_optional(x: Any, where: str, argument: str) -> None:
    """Raise DTypeError unless ``x`` is a Tensor or None."""
    if x is not None:
        check_tensor(x, where, argument)


def check_float(x: Tensor, where: str, argument: str = "input") -> None:
    """Raise DTypeError unless ``x`` is a floating tensor."""
    check_tensor(x, where, argument)
    if x.array.dtype.kind != "f":
        raise DTypeError.expected(where, argument, "a floating dtype", x.dtype, "use .to('float32')")


def check_matches(x: Tensor, other: Tensor | None, where: str, argument: str) -> None:
    """Raise DTypeError unless both have one dtype, and MixedDeviceError unless both are on one device.

    The usual mistake is a float64 image with float32 weights.
    """
    if other is None:
        return
    check_tensor(other, where, argument)
    if other.backend is not x.backend:
        raise MixedDeviceError.expected(
            where, argument, f"the input's device {x.device}", other.device,
            f"move the model with .to('{x.device}') before you make the optimiser, or the input with .to('{other.device}')",
        )  # fmt: skip
    if other.array.dtype != x.array.dtype:
        raise DTypeError.expected(
            where, argument, f"the input's dtype {x.dtype}", other.dtype, f"convert the input with .to('{other.dtype}')"
        )
