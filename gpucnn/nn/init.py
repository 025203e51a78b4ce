"""Initial values of parameters, in place, drawn from ``gpucnn.manual_seed``'s generator or one that is given.

For a weight of shape (O, I, *kernel): fan_in = I * kernel area, fan_out = O * kernel area.
"""

from __future__ import annotations

import math

from gpucnn.autograd import Tensor, no_grad
from gpucnn.backend import Generator, default_generator
from gpucnn.errors import DTypeError, ParameterError, ShapeError

GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def _check_tensor(tensor: Tensor, where: str) -> None:
    """DTypeError unless ``tensor`` is a Tensor."""
    if not isinstance(tensor, Tensor):
        raise DTypeError.expected(where, "tensor", "a Tensor", type(tensor).__name__, "wrap it in gpucnn.tensor(...)")


def _check_number(where: str, argument: str, value: float) -> None:
    """ParameterError unless ``value`` is a finite number."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ParameterError.expected(where, argument, "a finite number", repr(value))


def _check_draw(where: str, tensor: Tensor, generator: Generator | None, **numbers: float) -> None:
    """Check what random initialisers share: a floating tensor, a generator or none, finite numbers."""
    _check_tensor(tensor, where)
    if tensor.dtype.kind != "f":
        raise DTypeError.expected(where, "tensor", "a floating dtype", tensor.dtype)
    if generator is not None and not isinstance(generator, Generator):
        raise ParameterError.expected(where, "generator", "a gpucnn.Generator", repr(generator))
    for argument, value in numbers.items():
        _check_number(where, argument, value)


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out); ShapeError for fewer than two dimensions.

    >>> import gpucnn
    >>> fans(gpucnn.tensor([[0.0, 0.0, 0.0]]))
    (3, 1)
    """
    _check_tensor(tensor, "init")
    if tensor.ndim < 2 or not tensor.shape[0] or not tensor.shape[1]:
        raise ShapeError.expected("init", "tensor", "at least 2 dimensions of at least 1", f"shape {tensor.shape}")
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
    """Fill with uniform numbers of [a, b) and return the tensor.

    >>> import gpucnn
    >>> 0 <= uniform_(gpucnn.tensor([0.0])).item() < 1
    True
    """
    _check_draw("uniform_", tensor, generator, a=a, b=b)
    if a > b:
        raise ParameterError.expected("uniform_", "b", f"a number of at least a = {a}", b)
    drawn = tensor.backend.draw_uniform(tensor.shape, a, b, tensor.dtype, generator or default_generator)
    return _fill(tensor, drawn)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normal numbers and return the tensor.

    >>> import gpucnn
    >>> normal_(gpucnn.tensor([0.0, 0.0]), mean=3, std=0).tolist()
    [3.0, 3.0]
    """
    _check_draw("normal_", tensor, generator, mean=mean, std=std)
    if std < 0:
        raise ParameterError.expected("normal_", "std", "a number of at least 0", std)
    drawn = tensor.backend.draw_normal(tensor.shape, mean, std, tensor.dtype, generator or default_generator)
    return _fill(tensor, drawn)


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fill with the number ``value`` and return the tensor.

    >>> import gpucnn
    >>> constant_(gpucnn.tensor([1.0, 2.0]), 3).tolist()
    [3.0, 3.0]
    """
    _check_number("constant_", "value", value)
    return _fill(tensor, value)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros and return the tensor.

    >>> import gpucnn
    >>> zeros_(gpucnn.tensor([1.0, 2.0])).tolist()
    [0.0, 0.0]
    """
    return _fill(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones and return the tensor.

    >>> import gpucnn
    >>> ones_(gpucnn.tensor([1.0, 2.0])).tolist()
    [1.0, 1.0]
    """
    return _fill(tensor, 1)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)). Source: Glorot & Bengio 2010.

    >>> import gpucnn
    >>> xavier_uniform_(gpucnn.tensor([[0.0, 0.0]])).shape
    (1, 2)
    """
    _check_number("xavier_uniform_", "gain", gain)
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with N(0, s), s = gain sqrt(2 / (fan_in + fan_out)). Source: Glorot & Bengio 2010.

    >>> import gpucnn
    >>> xavier_normal_(gpucnn.tensor([[0.0, 0.0]])).shape
    (1, 2)
    """
    _check_number("xavier_normal_", "gain", gain)
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with U(-b, b), b = gain sqrt(3 / fan); ``a`` is leaky_relu's slope. Source: He et al. 2015.

    >>> import gpucnn
    >>> kaiming_uniform_(gpucnn.tensor([[0.0, 0.0]]), nonlinearity="relu").shape
    (1, 2)
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with N(0, s), s = gain / sqrt(fan); ``a`` is leaky_relu's slope. Source: He et al. 2015.

    >>> import gpucnn
    >>> kaiming_normal_(gpucnn.tensor([[0.0, 0.0]]), mode="fan_out").shape
    (1, 2)
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ParameterError.expected("kaiming", "mode", "'fan_in' or 'fan_out'", repr(mode))
    fan_in, fan_out = fans(tensor)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def _fill(tensor: Tensor, value: object) -> Tensor:
    _check_tensor(tensor, "init")
    with no_grad():
        tensor.refuse_in_place("init")
        tensor.array[...] = value
    return tensor
