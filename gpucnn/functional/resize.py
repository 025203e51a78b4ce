"""Resizing images."""

from __future__ import annotations

from gpucnn.autograd import Tensor
from gpucnn.backend.geometry import Pair
from gpucnn.checks import check_choice, check_flag, check_positive
from gpucnn.errors import ParameterError
from gpucnn.functional.arguments import PairLike, check_float, image_batch, pair, unbatch

MODES = ("nearest", "bilinear")


def interpolate(
    input: Tensor,
    size: PairLike | None = None,
    scale_factor: float | tuple[float, float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> Tensor:
    """Return images (N, C, H, W), or one (C, H, W), with another height and width.

    Give either size, (height, width) or one number for both, or scale_factor, by which both are multiplied and rounded down.
    mode: "nearest" repeats pixels; "bilinear" weights the four around a point. With align_corners the corner pixels of both
    images coincide. With recompute_scale_factor the ratio of the sizes is used instead of scale_factor. Raises
    ParameterError, DTypeError and ShapeError. Source: torch.nn.functional.interpolate.

    >>> import gpucnn
    >>> interpolate(gpucnn.tensor([[[1.0, 3.0]]]), scale_factor=2).tolist()
    [[[1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 3.0, 3.0]]]
    """
    where = "interpolate"
    x, added = image_batch(input, where)
    check_float(x, where)
    check_choice(mode, where, "mode", MODES)
    corners = align_corners is not None and check_flag(align_corners, where, "align_corners")
    if corners and mode == "nearest":
        raise ParameterError.expected(where, "align_corners", "False for mode nearest", "True")
    before: Pair = (x.shape[2], x.shape[3])
    after = resized(where, before, size, scale_factor)
    factors = scale_factor if isinstance(scale_factor, tuple) else (scale_factor, scale_factor)
    if recompute_scale_factor is not None and check_flag(recompute_scale_factor, where, "recompute_scale_factor"):
        factors = (None, None)
    for axis, n, m, factor in zip((2, 3), before, after, factors, strict=True):
        if mode == "nearest":
            rows = [min(int(i * (n / m if factor is None else 1 / factor)), n - 1) for i in range(m)]
            x = x[(*(slice(None),) * axis, rows)]
        else:
            matrix = x.like(x.backend.asarray(_weights(n, m, factor, corners), x.dtype))
            x = x @ matrix if axis == 3 else (x.transpose(2, 3) @ matrix).transpose(2, 3)
    return unbatch(x, added)


def resized(where: str, before: Pair, size: PairLike | None, scale_factor: object) -> Pair:
    """Return the new (height, width) of an image; ParameterError unless one of size and scale_factor is given."""
    if (size is None) == (scale_factor is None):
        raise ParameterError.expected(where, "size", "one of size and scale_factor", "both or none")
    if size is not None:
        return pair(size, where, "size")
    factors = scale_factor if isinstance(scale_factor, tuple) else (scale_factor, scale_factor)
    if len(factors) != 2:
        raise ParameterError.expected(where, "scale_factor", "a number or a pair", repr(scale_factor))
    H, W = (int(n * check_positive(factor, where, "scale_factor")) for n, factor in zip(before, factors, strict=True))
    if min(H, W) < 1:
        raise ParameterError.expected(where, "scale_factor", f"one that leaves pixels of {before}", repr(scale_factor))
    return H, W


def _weights(n: int, m: int, factor: float | None, corners: bool) -> list[list[float]]:
    """Return the (n, m) matrix of the weights of n pixels in m."""
    matrix = [[0.0] * m for _ in range(n)]
    for i in range(m):
        if corners:
            place = i * (n - 1) / (m - 1) if m > 1 else 0.0
        else:
            place = max((i + 0.5) * (n / m if factor is None else 1 / factor) - 0.5, 0.0)
        first = min(int(place), n - 1)
        share = place - first
        matrix[first][i] += 1 - share
        matrix[min(first + 1, n - 1)][i] += share
    return matrix
