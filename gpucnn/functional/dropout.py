"""Dropout."""

from __future__ import annotations

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, Generator, current_generator, ops
from gpucnn.checks import check_flag, check_probability
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.functional.arguments import check_float


def _dropout(
    backend: Backend, x: Array, requires_grad: RequiresGrad, p: float, generator: Generator, whole_channels: bool
) -> Result:
    shape = (*x.shape[:2], *(1,) * (x.ndim - 2)) if whole_channels else x.shape
    mask = ops.dropout_mask(backend, shape, p, x.dtype, generator)
    return ops.multiply(backend, x, mask), (lambda dy: (ops.multiply(backend, dy, mask),)) if requires_grad[0] else None


def dropout(input: Tensor, p: float = 0.5, training: bool = True, generator: Generator | None = None) -> Tensor:
    """Return each element set to 0 with probability ``p`` and otherwise divided by 1 - p; unchanged when not training.

    Draws from ``generator``, by default the one that ``gpucnn.manual_seed`` seeds. ParameterError unless 0 <= p <= 1.
    Source: Srivastava et al. 2014 (the "inverted" form, which changes nothing in evaluation).

    >>> import gpucnn
    >>> dropout(gpucnn.tensor([1.0, 2.0]), training=False).tolist()
    [1.0, 2.0]
    """
    return _drop(input, p, training, generator, "dropout", whole_channels=False)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, generator: Generator | None = None) -> Tensor:
    """Return (N, C, ...) with whole channels set to 0 with probability ``p``, the others divided by 1 - p.

    Raises what ``dropout`` raises, and ShapeError for fewer than 2 axes. Source: Tompson et al. 2015.

    >>> import gpucnn
    >>> dropout2d(gpucnn.tensor([[[[1.0]]]]), training=False).tolist()
    [[[[1.0]]]]
    """
    check_float(input, "dropout2d")
    if input.ndim < 2:
        raise ShapeError.expected("dropout2d", "input", "(N, C, ...)", f"shape {input.shape}")
    return _drop(input, p, training, generator, "dropout2d", whole_channels=True)


def _drop(x: Tensor, p: float, training: bool, generator: Generator | None, where: str, whole_channels: bool) -> Tensor:
    check_probability(p, where, "p")
    if generator is not None and not isinstance(generator, Generator):
        raise ParameterError.expected(where, "generator", "a gpucnn.Generator", repr(generator))
    check_float(x, where)
    check_flag(training, where, "training")
    if not training or p == 0:
        return x
    return apply(_dropout, x, p=float(p), generator=generator or current_generator(), whole_channels=whole_channels)
