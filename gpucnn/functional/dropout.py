"""Dropout."""

from __future__ import annotations

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend, Generator, default_generator
from gpucnn.errors import ParameterError
from gpucnn.functional.arguments import check_float


def mask(backend: Backend, x: Array, needs: Needs, p: float, generator: Generator) -> Result:
    drawn = backend.dropout_mask(x.shape, p, x.dtype, generator)
    return x * drawn, (lambda dy: (dy * drawn,)) if needs[0] else None


def dropout(input: Tensor, p: float = 0.5, training: bool = True, generator: Generator | None = None) -> Tensor:
    """Return each element set to 0 with probability ``p`` and otherwise divided by 1 - p; unchanged when not training.

    Draws from ``generator``, or the one that ``gpucnn.manual_seed`` seeds. ParameterError unless 0 <= p <= 1.
    Source: Srivastava et al. 2014 (the "inverted" form, which leaves evaluation alone).

    >>> import gpucnn
    >>> dropout(gpucnn.tensor([1.0, 2.0]), training=False).tolist()
    [1.0, 2.0]
    """
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ParameterError.expected("dropout", "p", "a probability from 0 to 1", repr(p))
    if generator is not None and not isinstance(generator, Generator):
        raise ParameterError.expected("dropout", "generator", "a gpucnn.Generator", repr(generator))
    check_float(input, "dropout")
    if not training or p == 0:
        return input
    return apply(mask, input, p=float(p), generator=generator or default_generator)
