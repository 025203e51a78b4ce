"""In-place initialisation of parameters, from the generator of ``gpucnn.manual_seed`` or a given one.

For a weight of shape (O, I, *kernel): fan_in = I * kernel area, fan_out = O * kernel area.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from gpucnn.autograd import Tensor, no_grad
from gpucnn.backend import Generator, current_generator, ops
from gpucnn.checks import check_number, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError, did_you_mean, kind_of

GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def _check_tensor(tensor: Tensor, where: str) -> None:
    """Raise DTypeError unless ``tensor`` is a Tensor."""
    if not isinstance(tensor, Tensor):
        raise DTypeError.expected(where, "tensor", "a Tensor", kind_of(tensor), "wrap it in gpucnn.tensor(...)")


def _check_draw(where: str, tensor: Tensor, generator: Generator | None, **numbers: float) -> None:
    """Check the common arguments of random initialisers: a floating tensor, a generator or None, finite numbers."""
    _check_tensor(tensor, where)
    if tensor.dtype.kind != "f":
        raise DTypeError.expected(where, "tensor", "a floating dtype", tensor.dtype)
    if generator is not None and not isinstance(generator, Generator):
        raise ParameterError.expected(where, "generator", "a gpucnn.Generator", repr(generator))
    for argument, value in numbers.items():
        check_number(value, where, argument)


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
    """Return the gain that preserves the variance through an activation; ``param`` is leaky_relu's slope.

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
    """Fill with uniform random numbers in [a, b) and return the tensor.

    >>> import gpucnn
    >>> 0 <= uniform_(gpucnn.tensor([0.0])).item() < 1
    True
    """
    _check_draw("uniform_", tensor, generator, a=a, b=b)
    if a > b:
        raise ParameterError.expected("uniform_", "b", f"a number of at least a = {a}", b)
    drawn = ops.draw_uniform(tensor.backend, tensor.shape, a, b, tensor.dtype, generator or current_generator())
    return _fill(tensor, drawn)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normally distributed random numbers and return the tensor.

    >>> import gpucnn
    >>> normal_(gpucnn.tensor([0.0, 0.0]), mean=3, std=0).tolist()
    [3.0, 3.0]
    """
    _check_draw("normal_", tensor, generator, mean=mean, std=std)
    if std < 0:
        raise ParameterError.expected("normal_", "std", "a number of at least 0", std)
    drawn = ops.draw_normal(tensor.backend, tensor.shape, mean, std, tensor.dtype, generator or current_generator())
    return _fill(tensor, drawn)


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fill with the number ``value`` and return the tensor.

    >>> import gpucnn
    >>> constant_(gpucnn.tensor([1.0, 2.0]), 3).tolist()
    [3.0, 3.0]
    """
    check_number(value, "constant_", "value")
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
    check_number(gain, "xavier_uniform_", "gain")
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with N(0, s), s = gain sqrt(2 / (fan_in + fan_out)). Source: Glorot & Bengio 2010.

    >>> import gpucnn
    >>> xavier_normal_(gpucnn.tensor([[0.0, 0.0]])).shape
    (1, 2)
    """
    check_number(gain, "xavier_normal_", "gain")
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


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Fill with normally distributed numbers, redrawing those outside [a, b], and return the tensor.

    >>> import gpucnn
    >>> abs(trunc_normal_(gpucnn.tensor([0.0])).item()) <= 2
    True
    """
    _check_draw("trunc_normal_", tensor, generator, mean=mean, std=std, a=a, b=b)
    if std < 0 or not a < b or not (a - 6 * std <= mean <= b + 6 * std):
        raise ParameterError.expected(
            "trunc_normal_", "std, a, b", "std >= 0 and a < b near the mean", f"{std}, {a}, {b}"
        )
    backend = tensor.backend
    drawn = ops.draw_truncated(backend, tensor.shape, mean, std, a, b, tensor.dtype, generator or current_generator())
    return _fill(tensor, drawn)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill, as a matrix (O, size / O), with orthonormal rows or columns times gain. Source: Saxe et al. 2014.

    >>> import gpucnn
    >>> w = orthogonal_(gpucnn.tensor([[0.0, 0.0], [0.0, 0.0]])).numpy()
    >>> bool(abs(w @ w.T - [[1, 0], [0, 1]]).max() < 1e-6)
    True
    """
    _check_draw("orthogonal_", tensor, generator, gain=gain)
    fans(tensor)
    rows = tensor.shape[0]
    drawn = ops.draw_orthogonal(
        tensor.backend, rows, tensor.size // rows, tensor.dtype, generator or current_generator(), gain
    )
    return _fill(tensor, ops.reshape(tensor.backend, drawn, tensor.shape))


def smart_normal_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    """Fill with N(0, s), s = sqrt(2 / (K K C)): He's initialisation for ReLU, K K the kernel size and C the input channels.

    >>> import gpucnn
    >>> smart_normal_(gpucnn.tensor([[0.0, 0.0]])).shape
    (1, 2)
    """
    return kaiming_normal_(tensor, nonlinearity="relu", generator=generator)


INITIALISERS: dict[str, Callable[..., Tensor]] = {
    "glorot_uniform": xavier_uniform_,
    "glorot_normal": xavier_normal_,
    "xavier_uniform": xavier_uniform_,
    "xavier_normal": xavier_normal_,
    "he_uniform": kaiming_uniform_,
    "he_normal": kaiming_normal_,
    "kaiming_uniform": kaiming_uniform_,
    "kaiming_normal": kaiming_normal_,
    "truncated_normal": trunc_normal_,
    "normal": normal_,
    "std_normal": normal_,
    "uniform": uniform_,
    "orthogonal": orthogonal_,
    "smart": smart_normal_,
    "constant": constant_,
    "zeros": zeros_,
    "ones": ones_,
}
"""Initialisers by name."""


def initialise(tensor: Tensor, how: str | Callable[..., Tensor], **options: Any) -> Tensor:
    """Fill with the initialiser ``how``, a name or a function of the tensor, and return the tensor.

    >>> import gpucnn
    >>> initialise(gpucnn.tensor([0.0]), "constant", value=2).tolist()
    [2.0]
    """
    if callable(how):
        return how(tensor, **options)
    if not isinstance(how, str) or how not in INITIALISERS:
        remedy = did_you_mean(str(how), INITIALISERS)
        raise ParameterError.expected("initialise", "how", ", ".join(INITIALISERS), shown(how), remedy)
    try:
        inspect.signature(INITIALISERS[how]).bind(tensor, **options)
    except TypeError as error:
        raise ParameterError(f"initialise: {how}: {error}.") from None
    return INITIALISERS[how](tensor, **options)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ParameterError.expected("kaiming", "mode", "'fan_in' or 'fan_out'", repr(mode))
    fan_in, fan_out = fans(tensor)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def _fill(tensor: Tensor, value: object) -> Tensor:
    _check_tensor(tensor, "init")
    with no_grad():
        tensor.refuse_in_place("init")
        ops.fill(tensor.backend, tensor.array, value)
    return tensor
