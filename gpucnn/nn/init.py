"""Initial values of parameters, in place, drawn from ``gpucnn.manual_seed``'s generator or one that is given.

For a weight of shape (O, I, *kernel): fan_in = I * kernel area, fan_out = O * kernel area.
"""

from __future__ import annotations

import math

from gpucnn.autograd import Tensor, no_grad
from gpucnn.backend import Generator, default_generator
from gpucnn.errors import ParameterError, ShapeError

GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out); ShapeError for fewer than two dimensions."""
    if tensor.ndim < 2:
        raise ShapeError.expected("init", "tensor", "at least 2 dimensions", f"shape {tensor.shape}")
    area = math.prod(tensor.shape[2:])
    return tensor.shape[1] * area, tensor.shape[0] * area


def calculate_gain(nonlinearity: str, param: float = 0.01) -> float:
    """Return the factor that keeps the variance through an activation; ``param`` is leaky_relu's slope.

    >>> calculate_gain("relu") ** 2
    2.0000000000000004
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + param**2))
    if nonlinearity not in GAINS:
        raise ParameterError.expected(
            "calculate_gain", "nonlinearity", ", ".join([*GAINS, "leaky_relu"]), repr(nonlinearity)
        )
    return GAINS[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with uniform numbers of [a, b) and return the tensor."""
    drawn = tensor.backend.draw_uniform(tensor.shape, a, b, tensor.dtype, generator or default_generator)
    return _fill(tensor, drawn)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normal numbers and return the tensor."""
    drawn = tensor.backend.draw_normal(tensor.shape, mean, std, tensor.dtype, generator or default_generator)
    return _fill(tensor, drawn)


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fill with ``value`` and return the tensor.

    >>> import gpucnn
    >>> constant_(gpucnn.tensor([1.0, 2.0]), 3).tolist()
    [3.0, 3.0]
    """
    return _fill(tensor, value)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros and return the tensor."""
    return _fill(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones and return the tensor."""
    return _fill(tensor, 1)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)). Source: Glorot & Bengio 2010."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with N(0, s), s = gain sqrt(2 / (fan_in + fan_out)). Source: Glorot & Bengio 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with U(-b, b), b = gain sqrt(3 / fan); ``a`` is leaky_relu's slope. Source: He et al. 2015."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with N(0, s), s = gain / sqrt(fan); ``a`` is leaky_relu's slope. Source: He et al. 2015."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ParameterError.expected("kaiming", "mode", "'fan_in' or 'fan_out'", repr(mode))
    fan_in, fan_out = fans(tensor)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def _fill(tensor: Tensor, value: object) -> Tensor:
    with no_grad():
        tensor.refuse_in_place("init")
        tensor.array[...] = value
    return tensor
