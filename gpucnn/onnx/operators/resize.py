"""Resizing: each axis by itself, as a choice of rows or as a product with a matrix of weights."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpucnn.autograd import Tensor
from gpucnn.errors import ShapeError
from gpucnn.onnx import tape
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators.registry import MOST_NUMBERS, axes_of, numbers, operator, room_for, whole_numbers

MODES = ("nearest", "linear", "cubic")
MOST_WEIGHTS = 2**24
"""The most elements of the matrix that resizes one axis."""


@operator("Resize", inputs=(1, 4), host=(1, 2, 3))
def resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    if node.version < 11:  # X and scales alone, and one rule
        return _resized(
            node, x, [float(s) for s in numbers(node, "scales", roi)] if roi is not None else None, None, None
        )
    factors = None if scales is None or not scales.size else [float(s) for s in numbers(node, "scales", scales)]
    lengths = None if sizes is None or not sizes.size else whole_numbers(node, "sizes", sizes)
    region = None if roi is None or not roi.size else [float(s) for s in numbers(node, "roi", roi)]
    return _resized(node, x, factors, lengths, region)


@operator("Upsample", inputs=(1, 2), host=(1,))
def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    factors = node.attributes.get("scales") if scales is None else numbers(node, "scales", scales)
    return _resized(node, x, None if factors is None else list(map(float, factors)), None, None)


def _resized(
    node: Node, x: Tensor, factors: list[float] | None, lengths: tuple[int, ...] | None, region: list[float] | None
) -> Tensor:
    axes = axes_of(node, node.ints("axes", tuple(range(x.ndim))), x.ndim)
    count = len(axes)
    if (factors is None) == (lengths is None) or len(factors or lengths or ()) != count:
        raise node.expected("scales, sizes", f"{count} numbers of one of them", factors or lengths)
    old = [x.shape[axis] for axis in axes]
    if factors is None:
        factors, lengths = _factors_of(node, old, list(lengths or ()))
    elif not all(0 < f < 2**20 for f in factors):
        raise node.expected("scales", "positive numbers", factors)
    else:
        lengths = tuple(math.floor(n * f) for n, f in zip(old, factors, strict=True))
    shape = list(x.shape)
    for axis, n in zip(axes, lengths, strict=True):
        shape[axis] = n
    room_for(node, shape)
    if max((*lengths, 0)) > MOST_NUMBERS or min((*old, 1)) < 1:
        raise ShapeError.expected(node.place, "sizes", f"lengths from 1 to {MOST_NUMBERS:,}", tuple(shape))
    if region is not None and len(region) != 2 * count:
        raise node.expected("roi", f"{2 * count} numbers", region)
    for i, axis in enumerate(axes):
        ends = (0.0, 1.0) if region is None else (region[i], region[count + i])
        x = _along(node, x, axis, lengths[i], factors[i], ends)
    return x


def _factors_of(node: Node, old: list[int], lengths: list[int]) -> tuple[list[float], tuple[int, ...]]:
    factors = [m / max(n, 1) for n, m in zip(old, lengths, strict=True)]
    policy = node.text("keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
    if policy != "stretch":
        one = (min if policy == "not_larger" else max)(factors)
        return [one] * len(old), tuple(math.floor(one * n + 0.5) for n in old)
    return factors, tuple(lengths)


def _along(node: Node, x: Tensor, axis: int, length: int, factor: float, ends: tuple[float, float]) -> Tensor:
    """Return x with ``length`` elements along one axis."""
    n = x.shape[axis]
    rule = "asymmetric" if node.version < 11 else node.text("coordinate_transformation_mode", "half_pixel")
    if factor == 1 and length == n and rule != "tf_crop_and_resize":
        return x
    places = _places(node, rule, n, length, factor, ends)
    mode = node.text("mode", "nearest", MODES)
    if mode == "nearest":
        rows = [min(max(row, 0), n - 1) for row in map(_nearest(node), places)]
        outside = rule == "tf_crop_and_resize" and any(not 0 <= p <= n - 1 for p in places)
        if not outside:
            return _rows(x, axis, rows, n, length)
    if length * n > MOST_WEIGHTS:
        raise ShapeError.expected(node.place, "sizes", f"at most {MOST_WEIGHTS:,} weights", f"{length} from {n}")
    weights = [_weights(node, mode, place, n, factor) for place in places]
    y = _product(x, axis, tape.constant(weights, str(x.dtype), x))
    if rule != "tf_crop_and_resize" or all(0 <= p <= n - 1 for p in places):
        return y
    inside = tape.constant([0 <= p <= n - 1 for p in places], "bool", x).reshape(-1, *(1,) * (x.ndim - axis - 1))
    return tape.where(inside, y, tape.constant(node.float("extrapolation_value", 0.0), str(x.dtype), x))


def _rows(x: Tensor, axis: int, rows: list[int], n: int, length: int) -> Tensor:
    """Return the rows chosen along an axis; each one repeated by a copy rather than by indices where that is all."""
    times = length // n
    if rows == [i for i in range(n) for _ in range(times)]:
        spread, shape = (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]), (*x.shape[:axis], length, *x.shape[axis + 1 :])
        return tape.broadcast(x.reshape(spread), (*x.shape[: axis + 1], times, *x.shape[axis + 1 :])).reshape(shape)
    return x[(*(slice(None),) * axis, tape.constant(rows, "int64", x))]


def _product(x: Tensor, axis: int, weights: Tensor) -> Tensor:
    """Return x with the matrix applied along an axis."""
    if axis == x.ndim - 1:
        return x @ weights.T
    lead, after = x.shape[:axis], x.shape[axis + 1 :]
    y = weights @ x.reshape(math.prod(lead), x.shape[axis], math.prod(after))
    return y.reshape(*lead, weights.shape[0], *after)


def _places(node: Node, rule: str, n: int, length: int, factor: float, ends: tuple[float, float]) -> list[float]:
    """Return where each output lies on the axis of the input."""
    exact = factor * n
    rules: dict[str, Callable[[int], float]] = {
        "half_pixel": lambda i: (i + 0.5) / factor - 0.5,
        "pytorch_half_pixel": lambda i: (i + 0.5) / factor - 0.5 if length > 1 else 0.0,
        "half_pixel_symmetric": lambda i: n / 2 * (1 - length / exact) + (i + 0.5) / factor - 0.5,
        "align_corners": lambda i: i * (n - 1) / (exact - 1) if exact > 1 else 0.0,
        "asymmetric": lambda i: i / factor,
        "tf_half_pixel_for_nn": lambda i: (i + 0.5) / factor,
        "tf_crop_and_resize": lambda i: (
            ends[0] * (n - 1) + i * (ends[1] - ends[0]) * (n - 1) / (length - 1)
            if length > 1
            else 0.5 * (ends[0] + ends[1]) * (n - 1)
        ),
    }
    if rule not in rules:
        raise node.expected("coordinate_transformation_mode", ", ".join(rules), rule)
    return [rules[rule](i) for i in range(length)]


def _nearest(node: Node) -> Callable[[float], int]:
    rule = "floor" if node.version < 11 else node.text("nearest_mode", "round_prefer_floor")
    rules: dict[str, Callable[[float], int]] = {
        "round_prefer_floor": lambda p: math.ceil(p - 0.5), "round_prefer_ceil": lambda p: math.floor(p + 0.5),
        "floor": math.floor, "ceil": math.ceil,
    }  # fmt: skip
    if rule not in rules:
        raise node.expected("nearest_mode", ", ".join(rules), rule)
    return rules[rule]


def _weights(node: Node, mode: str, place: float, n: int, factor: float) -> list[float]:
    """Return the weight of each of n inputs in the output at ``place``."""
    row = [0.0] * n
    if mode == "nearest":
        row[min(max(_nearest(node)(place), 0), n - 1)] = 1.0
        return row
    narrow = min(factor, 1.0) if node.flag("antialias") else 1.0
    reach = (1 if mode == "linear" else 2) / narrow
    slope = node.float("cubic_coeff_a", -0.75)
    first, last = math.ceil(place - reach), math.floor(place + reach)
    shares = {i: _kernel(mode, (i - place) * narrow, slope) for i in range(first, last + 1)}
    if node.flag("exclude_outside"):
        shares = {i: share for i, share in shares.items() if 0 <= i < n}
    total = math.fsum(shares.values()) or 1.0
    for i, share in shares.items():
        row[min(max(i, 0), n - 1)] += share / total
    return row


def _kernel(mode: str, distance: float, slope: float) -> float:
    """Return the weight of an element at this distance. Source of the cubic: Keys 1981."""
    d = abs(distance)
    if mode == "linear":
        return max(1 - d, 0.0)
    if d <= 1:
        return ((slope + 2) * d - (slope + 3)) * d * d + 1
    return (((d - 5) * d + 8) * d - 4) * slope if d < 2 else 0.0
