"""Operators that move elements, and those that make or report shapes."""

from __future__ import annotations

import math

from gpucnn.autograd import Tensor, concatenate, tensor
from gpucnn.errors import ShapeError
from gpucnn.onnx import tape
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators.registry import (
    MOST_NUMBERS,
    axes_of,
    axis_of,
    numbers,
    operator,
    room_for,
    unsupported,
    whole_numbers,
)
from gpucnn.onnx.reading import DTYPES


def ints_of(node: Node, name: str, given: Tensor | None) -> tuple[int, ...] | None:
    """Return integers that newer operator sets give as an input and older ones as an attribute; None if absent."""
    if given is not None:
        return whole_numbers(node, name, given)
    return node.ints(name) if name in node.attributes else None


@operator("Reshape", inputs=(1, 2), host=(1,))
def reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    wanted = list(ints_of(node, "shape", shape) or ())
    if not node.flag("allowzero"):
        for i, n in enumerate(wanted):
            if n == 0:
                if i >= x.ndim:
                    raise node.expected("shape", f"0 for an axis of shape {x.shape}", tuple(wanted))
                wanted[i] = x.shape[i]
    known = math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known > 0 and x.size % known == 0:
        wanted[wanted.index(-1)] = x.size // known
    if any(n < 0 for n in wanted) or math.prod(wanted) != x.size:
        raise ShapeError.expected(node.place, "shape", f"{x.size:,} elements (from {x.shape})", tuple(wanted))
    return x.reshape(wanted)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    value = node.int("axis", 1)
    axis = x.ndim if value == x.ndim else axis_of(node, value, max(x.ndim, 1))
    rows = math.prod(x.shape[:axis])
    return x.reshape(rows, x.size // rows if rows else math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(*axes_of(node, node.ints("perm", tuple(reversed(range(x.ndim))), x.ndim), x.ndim))


@operator("Squeeze", inputs=(1, 2), host=(1,))
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = ints_of(node, "axes", axes)
    dropped = [i for i, n in enumerate(x.shape) if n == 1] if given is None else axes_of(node, given, x.ndim)
    if any(x.shape[i] != 1 for i in dropped):
        raise ShapeError.expected(node.place, "axes", "axes of length 1", f"{given} of shape {x.shape}")
    return x.reshape([n for i, n in enumerate(x.shape) if i not in dropped])


@operator("Unsqueeze", inputs=(1, 2), host=(1,))
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = ints_of(node, "axes", axes) or ()
    ndim = x.ndim + len(given)
    added, lengths = axes_of(node, given, ndim), iter(x.shape)
    return x.reshape([1 if i in added else next(lengths) for i in range(ndim)])


@operator("Concat", inputs=(1, 10_000))
def concat(node: Node, *tensors: Tensor) -> Tensor:
    first = tensors[0]
    axis = axis_of(node, node.int("axis", 1 if node.version < 4 else None), first.ndim)
    room_for(node, (sum(t.shape[axis] for t in tensors if t.ndim == first.ndim), *first.shape[:axis]))
    return concatenate(list(tensors), axis)


@operator("Split", inputs=(1, 2), host=(1,))
def split(node: Node, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = axis_of(node, node.int("axis", 0), x.ndim)
    n, count = x.shape[axis], len(node.outputs)
    parts = ints_of(node, "split", lengths)
    if parts is None:
        each = -(-n // count)
        parts = tuple(max(min(each, n - i * each), 0) for i in range(count))
    if sum(parts) != n or len(parts) != count or min(parts) < 0:
        raise ShapeError.expected(node.place, "split", f"{count} lengths that sum to {n}", parts)
    lead, start, found = (slice(None),) * axis, 0, []
    for length in parts:
        found.append(x[(*lead, slice(start, start + length))])
        start += length
    return tuple(found)


@operator("Slice", inputs=(1, 5), host=(1, 2, 3, 4))
def slice_(
    node: Node, x: Tensor, starts: Tensor | None = None, ends: Tensor | None = None, axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:  # fmt: skip
    first, last = ints_of(node, "starts", starts) or (), ints_of(node, "ends", ends) or ()
    along = ints_of(node, "axes", axes)
    along = axes_of(node, tuple(range(len(first))) if along is None else along, x.ndim)
    strides = (1,) * len(first) if steps is None else whole_numbers(node, "steps", steps)
    if not len(first) == len(last) == len(along) == len(strides) or 0 in strides:
        raise node.expected("starts, ends, axes, steps", "as many of each, and steps other than 0", first)
    cuts = [slice(None)] * x.ndim
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        n = x.shape[axis]
        start, end = (i + n if i < 0 else i for i in (start, end))
        if step > 0:
            cuts[axis] = slice(min(max(start, 0), n), min(max(end, 0), n), step)
        else:
            start, end = min(max(start, -1), n - 1), min(max(end, -1), n - 1)
            cuts[axis] = slice(start, None if end < 0 else end, step) if start >= 0 else slice(0, 0)
    return x[tuple(cuts)]


def _checked(node: Node, indices: Tensor, n: int) -> Tensor:
    """Return indices from 0 to n - 1; negative ones count from the end. A kernel could not raise an error later."""
    if indices.dtype.kind not in "iu":
        raise node.expected("indices", "integers", indices.dtype)
    if indices.size and not -n <= int(indices.min().item()) <= int(indices.max().item()) < n:
        raise node.expected(
            "indices", f"ints from {-n} to {n - 1}", f"{indices.min().item()} to {indices.max().item()}"
        )
    return tape.pair(indices.to("int64"), tape.constant(n, "int64", indices), "Remainder") if n else indices


@operator("Gather", inputs=(2, 2))
def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = axis_of(node, node.int("axis", 0), x.ndim)
    room_for(node, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    chosen = _checked(node, indices, x.shape[axis])
    if not chosen.ndim:
        return x[(*(slice(None),) * axis, int(chosen.item()))]
    return x[(*(slice(None),) * axis, chosen)]


@operator("GatherElements", inputs=(2, 2))
def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = axis_of(node, node.int("axis", 0), x.ndim)
    if indices.ndim != x.ndim or any(
        n > m for i, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)) if i != axis
    ):
        raise ShapeError.expected(node.place, "indices", f"a shape within {x.shape} but for axis {axis}", indices.shape)
    key: list[Tensor] = []
    for i, n in enumerate(indices.shape):
        steps = tape.constant(range(n), "int64", x).reshape(*(n if j == i else 1 for j in range(x.ndim)))
        key.append(_checked(node, indices, x.shape[axis]) if i == axis else tape.broadcast(steps, indices.shape))
    return x[tuple(key)]


@operator("Expand", inputs=(2, 2), host=(1,))
def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    wanted = list(whole_numbers(node, "shape", shape))
    own = [1] * (len(wanted) - x.ndim) + list(x.shape)
    wanted = [1] * (x.ndim - len(wanted)) + wanted
    if any(n != m and 1 not in (n, m) for n, m in zip(own, wanted, strict=True)):
        raise ShapeError.expected(node.place, "shape", f"one that {x.shape} broadcasts to", tuple(wanted))
    return tape.broadcast(x, room_for(node, [m if n == 1 else n for n, m in zip(own, wanted, strict=True)]))


@operator("Tile", inputs=(2, 2), host=(1,))
def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    times = whole_numbers(node, "repeats", repeats)
    if len(times) != x.ndim or any(n < 0 for n in times):
        raise node.expected("repeats", f"{x.ndim} ints of at least 0", times)
    shape = room_for(node, [n * t for n, t in zip(x.shape, times, strict=True)])
    spread = [m for pair in zip([1] * x.ndim, x.shape, strict=True) for m in pair]
    wanted = tuple(m for pair in zip(times, x.shape, strict=True) for m in pair)
    return tape.broadcast(x.reshape(spread), wanted).reshape(shape)


@operator("Pad", inputs=(1, 4), host=(1, 2, 3))
def pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    name = "paddings" if node.version < 2 else "pads"
    given, along = ints_of(node, name, pads) or (), None if axes is None else whole_numbers(node, "axes", axes)
    along = axes_of(node, tuple(range(x.ndim)) if along is None else along, x.ndim)
    if len(given) != 2 * len(along):
        raise node.expected(name, f"{2 * len(along)} ints", given)
    mode = node.text("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    fill = node.float("value", 0.0) if value is None else numbers(node, "constant_value", value)[0]
    for axis, before, after in zip(along, given[: len(along)], given[len(along) :], strict=True):
        n = x.shape[axis] + before + after
        room_for(node, (*x.shape[:axis], n, *x.shape[axis + 1 :]))
        x = _padded(node, x, axis, before, after, mode, fill)
    return x


def _padded(node: Node, x: Tensor, axis: int, before: int, after: int, mode: str, fill: float) -> Tensor:
    lead, n = (slice(None),) * axis, x.shape[axis]
    if min(before, after) < 0:
        x = x[(*lead, slice(max(-before, 0), n - max(-after, 0)))]
        n, before, after = x.shape[axis], max(before, 0), max(after, 0)
    if not before and not after:
        return x
    if mode == "constant":

        def filled(length: int) -> Tensor:
            shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
            return tape.broadcast(tape.constant(fill, str(x.dtype), x), shape)

        return concatenate([part for part in (filled(before), x, filled(after)) if part.shape[axis]], axis)
    if n < 1 or before + after > MOST_NUMBERS:
        raise ShapeError.expected(
            node.place, "pads", f"at most {MOST_NUMBERS:,}, and an axis that is not empty", x.shape
        )
    positions = range(-before, n + after)
    if mode == "edge":
        rows = [min(max(i, 0), n - 1) for i in positions]
    elif mode == "wrap":
        rows = [i % n for i in positions]
    else:
        period = max(2 * (n - 1), 1)
        rows = [min(i % period, period - i % period) if n > 1 else 0 for i in positions]
    return x[(*lead, tape.constant(rows, "int64", x))]


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    N, C, H, W, block = _blocks(node, x)
    if C % block**2:
        raise ShapeError.expected(node.place, "input", f"a multiple of {block**2} channels", f"shape {x.shape}")
    D = C // block**2
    if node.text("mode", "DCR", ("DCR", "CRD")) == "DCR":
        y = x.reshape(N, block, block, D, H, W).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(N, D, block, block, H, W).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(N, D, H * block, W * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    N, C, H, W, block = _blocks(node, x)
    if H % block or W % block:
        raise ShapeError.expected(node.place, "input", f"a size that {block} divides", f"{H}x{W}")
    y = x.reshape(N, C, H // block, block, W // block, block)
    if node.attributes.get("mode", "DCR") == "CRD":
        return y.transpose(0, 1, 3, 5, 2, 4).reshape(N, C * block**2, H // block, W // block)
    return y.transpose(0, 3, 5, 1, 2, 4).reshape(N, C * block**2, H // block, W // block)


def _blocks(node: Node, x: Tensor) -> tuple[int, int, int, int, int]:
    block = node.int("blocksize")
    if x.ndim != 4 or not 1 <= block <= 2**16:
        raise ShapeError.expected(node.place, "input", "(N, C, H, W) and blocks of at least 1", f"{x.shape}, {block}")
    N, C, H, W = x.shape
    return N, C, H, W, block


# --- shapes and constants, on the host ---------------------------------------------------------------------------------


@operator("Shape")
def shape(node: Node, x: Tensor) -> Tensor:
    first, last = node.int("start", 0), node.int("end", x.ndim)
    return tensor(list(x.shape[slice(first, last)]), "int64", "cpu")


@operator("Size")
def size(node: Node, x: Tensor) -> Tensor:
    return tensor(x.size, "int64", "cpu")


@operator("Constant", inputs=(0, 0))
def constant(node: Node) -> Tensor:
    kinds = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    if "value" in node.attributes and hasattr(node.attributes["value"], "shape"):
        return tensor(node.attributes["value"], None, "cpu")
    for name, dtype in kinds.items():
        if name in node.attributes:
            return tensor(node.attributes[name], dtype, "cpu")
    raise unsupported(node, f"a constant of {', '.join(node.attributes) or 'nothing'}")


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = node.attributes.get("value")
    lengths = room_for(node, whole_numbers(node, "shape", shape), getattr(getattr(value, "dtype", None), "itemsize", 4))
    if value is not None and (not hasattr(value, "shape") or value.size != 1):
        raise node.expected("value", "a tensor of one number", getattr(value, "shape", value))
    one = tensor(0.0, "float32", "cpu") if value is None else tensor(value.reshape(()), None, "cpu")
    return tape.broadcast(one, lengths)


@operator("Range", inputs=(3, 3), host=(0, 1, 2))
def range_(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    if not step or not all(map(math.isfinite, (first, last, step))):
        raise node.expected("delta", "a finite number other than 0", step)
    count = max(math.ceil((last - first) / step), 0)
    room_for(node, (count,))
    if count > MOST_NUMBERS:
        raise node.expected("range", f"at most {MOST_NUMBERS:,} numbers", f"{count:,}")
    return tensor([first + i * step for i in range(count)], start.dtype, "cpu")


@operator("Cast")
def cast(node: Node, x: Tensor) -> Tensor:
    kind = node.int("to")
    if kind not in DTYPES:
        raise node.expected("to", ", ".join(DTYPES.values()), f"element type {kind}")
    return x.to(DTYPES[kind])


@operator("CastLike", inputs=(2, 2))
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)
