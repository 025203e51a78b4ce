"""Activation layers, also by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.backend import get_backend
from gpucnn.checks import check_flag, check_int, check_known, is_number, python_number, shown
from gpucnn.errors import GpucnnError, ParameterError
from gpucnn.nn.layer import Layer
from gpucnn.nn.module import Module


def one_number() -> Tensor:
    """Return a tensor with which to validate a function's options."""
    backend = get_backend("cpu")
    return Tensor(backend.asarray(0.5, "float32"), backend)


class ElementwiseLayer(Layer):
    """Base class of layers that change neither the shape nor the receptive field."""

    elementwise = True


class ReLU(ElementwiseLayer):
    """max(x, 0), element-wise. inplace is accepted as in PyTorch, but the result is always new.

    >>> import gpucnn
    >>> ReLU()(gpucnn.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def __init__(self, name: str | bool | None = None, inplace: bool = False) -> None:
        alone = isinstance(name, bool)  # ReLU(True), as PyTorch's programs have it
        super().__init__(None if isinstance(name, bool) else name)
        check_flag(name if alone else inplace, "ReLU", "inplace")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Sigmoid(ElementwiseLayer):
    """1 / (1 + e^-x), element-wise.

    >>> import gpucnn
    >>> Sigmoid()(gpucnn.tensor([0.0])).tolist()
    [0.5]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Tanh(ElementwiseLayer):
    """The hyperbolic tangent, element-wise.

    >>> import gpucnn
    >>> Tanh()(gpucnn.tensor([0.0])).tolist()
    [0.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class Softmax(ElementwiseLayer):
    """e^x / sum(e^x) along ``dim``.

    >>> import gpucnn
    >>> Softmax()(gpucnn.tensor([[1.0, 1.0]])).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, dim: int = -1, *, name: str | None = None) -> None:
        super().__init__(name)
        self.dim = check_int(dim, type(self).__name__, "dim")

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.dim)


class LogSoftmax(Softmax):
    """log(softmax(x)) along ``dim``.

    >>> import gpucnn
    >>> LogSoftmax()(gpucnn.tensor([[0.0, 1000.0]])).tolist()
    [[-1000.0, 0.0]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, self.dim)


class Activation(ElementwiseLayer):
    """Base class of element-wise activations: a function and its options."""

    function: Callable[..., Tensor]

    def __init__(self, *, name: str | None = None, **options: Any) -> None:
        super().__init__(name)
        check_known(options, type(self).function, type(self).__name__)
        self.options = {name: python_number(v) if is_number(v) else v for name, v in options.items()}
        if options:  # call it once, so that a wrong option raises here
            type(self).function(one_number(), **options)

    def forward(self, x: Tensor) -> Tensor:
        return type(self).function(x, **self.options)

    def argument(self, name: str) -> Any:
        return self.options[name]

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in self.options.items())


class LeakyReLU(Activation):
    """x where x > 0, else negative_slope x.

    >>> import gpucnn
    >>> LeakyReLU(0.5)(gpucnn.tensor([-2.0])).tolist()
    [-1.0]
    """

    function = staticmethod(F.leaky_relu)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False, *, name: str | None = None) -> None:
        check_flag(inplace, "LeakyReLU", "inplace")
        super().__init__(name=name, negative_slope=negative_slope)


class ELU(Activation):
    """x where x > 0, else alpha (e^x - 1).

    >>> import gpucnn
    >>> ELU()(gpucnn.tensor([2.0])).tolist()
    [2.0]
    """

    function = staticmethod(F.elu)

    def __init__(self, alpha: float = 1.0, inplace: bool = False, *, name: str | None = None) -> None:
        check_flag(inplace, "ELU", "inplace")
        super().__init__(name=name, alpha=alpha)


class SELU(Activation):
    """The self-normalising ELU.

    >>> import gpucnn
    >>> round(SELU()(gpucnn.tensor([1.0])).item(), 4)
    1.0507
    """

    function = staticmethod(F.selu)

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        check_flag(inplace, "SELU", "inplace")
        super().__init__(name=name)


class GELU(Activation):
    """x Phi(x), Phi being the normal cumulative distribution function.

    >>> import gpucnn
    >>> GELU()(gpucnn.tensor([0.0])).tolist()
    [0.0]
    """

    function = staticmethod(F.gelu)

    def __init__(self, approximate: str = "none", *, name: str | None = None) -> None:
        super().__init__(name=name, approximate=approximate)


class SiLU(Activation):
    """x sigmoid(x).

    >>> import gpucnn
    >>> SiLU()(gpucnn.tensor([0.0])).tolist()
    [0.0]
    """

    function = staticmethod(F.silu)

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        check_flag(inplace, "SiLU", "inplace")
        super().__init__(name=name)


class Softplus(Activation):
    """log(1 + e^(beta x)) / beta.

    >>> import gpucnn
    >>> round(Softplus()(gpucnn.tensor([0.0])).item(), 4)
    0.6931
    """

    function = staticmethod(F.softplus)

    def __init__(self, beta: float = 1.0, threshold: float = 20.0, *, name: str | None = None) -> None:
        super().__init__(name=name, beta=beta, threshold=threshold)


class Hardsigmoid(Activation):
    """x / 6 + 1/2, clipped to [0, 1].

    >>> import gpucnn
    >>> Hardsigmoid()(gpucnn.tensor([0.0])).tolist()
    [0.5]
    """

    function = staticmethod(F.hardsigmoid)

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        check_flag(inplace, "Hardsigmoid", "inplace")
        super().__init__(name=name)


class Hardtanh(Activation):
    """x, clipped to [min_val, max_val].

    >>> import gpucnn
    >>> Hardtanh()(gpucnn.tensor([-4.0, 0.5])).tolist()
    [-1.0, 0.5]
    """

    function = staticmethod(F.hardtanh)

    def __init__(
        self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, *, name: str | None = None
    ) -> None:
        check_flag(inplace, "Hardtanh", "inplace")
        super().__init__(name=name, min_val=min_val, max_val=max_val)


class ReLU6(Activation):
    """min(max(x, 0), 6).

    >>> import gpucnn
    >>> ReLU6()(gpucnn.tensor([-1.0, 8.0])).tolist()
    [0.0, 6.0]
    """

    function = staticmethod(F.relu6)

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        check_flag(inplace, "ReLU6", "inplace")
        super().__init__(name=name)


class Affine(Activation):
    """slope x + intercept, with a fixed slope and intercept.

    >>> import gpucnn
    >>> Affine(3, 1)(gpucnn.tensor([2.0])).tolist()
    [7.0]
    """

    function = staticmethod(F.affine)

    def __init__(self, slope: float = 1.0, intercept: float = 0.0, *, name: str | None = None) -> None:
        super().__init__(name=name, slope=slope, intercept=intercept)


class Exponential(Activation):
    """e^x.

    >>> import gpucnn
    >>> Exponential()(gpucnn.tensor([0.0])).tolist()
    [1.0]
    """

    function = staticmethod(F.exponential)

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)


class Identity(ElementwiseLayer):
    """Returns its input. Accepts and ignores any arguments, as in PyTorch.

    >>> import gpucnn
    >>> Identity()(gpucnn.tensor([1.0])).tolist()
    [1.0]
    """

    def __init__(self, *arguments: Any, name: str | None = None, **options: Any) -> None:
        super().__init__(name)

    def forward(self, x: Tensor) -> Tensor:
        return x


ACTIVATIONS: dict[str, Callable[..., Module]] = {
    "identity": Identity,
    "relu": ReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "softmax": Softmax,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "selu": SELU,
    "gelu": GELU,
    "silu": SiLU,
    "softplus": Softplus,
    "hardsigmoid": Hardsigmoid,
    "hardtanh": Hardtanh,
    "relu6": ReLU6,
    "affine": Affine,
    "exponential": Exponential,
}
"""Activations by name. ``activation`` ignores case, spaces and underscores: "hard sigmoid" is "hardsigmoid"."""


def _with_options(text: str) -> tuple[str, dict[str, Any]]:
    """Split "affine(slope=2, intercept=1)" into its name and its numbers."""
    name, bracket, rest = text.partition("(")
    if not bracket:
        return text, {}
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.rstrip().removesuffix(")").split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        try:
            options[key] = int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            options[key] = value.strip("'\"")
        if not equals or not rest.rstrip().endswith(")"):
            raise ParameterError.expected("activation", "kind", "NAME or NAME(OPTION=NUMBER, ...)", shown(text))
    return name.strip(), options


def activation(kind: str | Module | None, **options: Any) -> Module:
    """Return an activation layer: by name with options, ``kind`` itself if it is a layer, Identity for None.

    >>> activation("leaky ReLU", negative_slope=0.2), activation("affine(slope=2, intercept=1)")
    (LeakyReLU(negative_slope=0.2), Affine(slope=2, intercept=1))
    """
    if kind is None:
        return Identity()
    if isinstance(kind, Module):
        return kind
    if isinstance(kind, str):
        kind, described = _with_options(kind)
        options = {**described, **options}
        asked = "".join(letter for letter in kind.lower() if letter.isalnum())
        for name, make in ACTIVATIONS.items():
            if name.replace("_", "") == asked:
                try:
                    return make(**options)
                except TypeError as error:
                    if isinstance(error, GpucnnError):
                        raise
                    raise ParameterError(f"activation {name}: {error}.") from None
    raise ParameterError.expected("activation", "kind", f"a layer or one of {', '.join(ACTIVATIONS)}", shown(kind))
