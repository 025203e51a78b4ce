"""Convolution, the dense layer, flattening and dropout; the arithmetic is in ``gpucnn.functional``."""

from __future__ import annotations

import math
from typing import Any

from gpucnn import functional as F
from gpucnn.autograd import Parameter, Tensor
from gpucnn.backend import Backend, Generator, Window, get_backend, ops
from gpucnn.checks import check_choice, check_count, check_flag, check_int, check_probability, is_flag, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.functional.arguments import (
    Padding,
    PairLike,
    check_float,
    image_batch,
    pair,
    plain_padding,
    read_window,
    sides,
    unbatch,
)
from gpucnn.functional.conv import check_implementation
from gpucnn.nn import init
from gpucnn.nn.module import Module


def new_parameter(shape: tuple[int, ...], device: str | Backend | None, dtype: Any) -> Parameter:
    backend = get_backend(device)
    try:
        zeros = ops.zeros(backend, shape, "float32" if dtype is None else dtype)
    except (TypeError, ValueError):
        raise DTypeError.expected("layer", "dtype", "a floating dtype", shown(dtype)) from None
    return Parameter(Tensor(zeros, backend))


class Weighted(Module):
    """A layer with a weight (out, in, *kernel) and an optional bias (out,), both drawn from U(-b, b), b = 1 / sqrt(fan_in).

    That is PyTorch's default (LeCun et al. 1998, "Efficient backprop"; He et al. 2015 with a = sqrt(5)).
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(self, bias: bool, device: str | Backend | None, dtype: Any, name: str | None) -> None:
        super().__init__(name)
        self._wants_bias = check_flag(bias, type(self).__name__, "bias")
        self._device, self._dtype = device, dtype
        self.weight = self.bias = None

    def weight_shape(self, in_size: int) -> tuple[int, ...]:
        raise NotImplementedError

    def bias_shape(self) -> tuple[int, ...]:
        """Return the shape of the bias, once the weight is there."""
        assert self.weight is not None
        return self.weight.shape[:1]

    def materialise(self, in_size: int) -> None:
        self.weight = new_parameter(self.weight_shape(in_size), self._device, self._dtype)
        fan_in, _ = init.fans(self.weight)
        bound = 1 / math.sqrt(fan_in)
        init.uniform_(self.weight, -bound, bound)
        if self._wants_bias:
            self.bias = new_parameter(self.bias_shape(), self._device, self._dtype)
            init.uniform_(self.bias, -bound, bound)

    def waits_for_input(self) -> bool:
        return self.weight is None

    def in_size_of(self, x: Tensor) -> int:
        """Return the input size that fits ``x``; ShapeError or DTypeError where none does."""
        raise NotImplementedError

    def ready_for(self, x: Tensor) -> Parameter:
        """Return the weight, made now for input like ``x`` if it was waiting."""
        if self.weight is None:
            in_size = self.in_size_of(x)
            self._device, self._dtype = x.backend, self._dtype or x.dtype
            self.materialise(in_size)
        assert self.weight is not None
        return self.weight


def group_channels(x: Tensor, where: str, groups: int) -> int:
    """Return the channels of each group of ``x``; ShapeError where they do not divide."""
    check_float(x, where)
    channels = image_batch(x, where)[0].shape[1]
    if not channels or channels % groups:
        raise ShapeError.expected(where, "input", f"channels in {groups} equal groups", f"{channels} channels")
    return channels // groups


class Conv2d(Weighted):
    """Cross-correlation: (N, C, H, W) -> (N, F, OH, OW); see ``functional.conv2d`` for sizes, padding and errors.

    in_channels=None takes the channels of the first input. Parameters: weight (F, C/groups, KH, KW), bias (F,).
    padding_mode: "zeros", "reflect" or "replicate". bias: True or "channel", False, or "position": one for each output
    pixel, (F, OH, OW), which needs image_size, the input's (H, W). implementation: "auto", "im2col" or "loops".

    >>> import gpucnn
    >>> Conv2d(1, 6, 5, padding=2)(gpucnn.tensor([[[[0.0] * 28] * 28]])).shape
    (1, 6, 28, 28)
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: Padding = 0,
        dilation: PairLike = 1,
        groups: int = 1,
        bias: bool | str = True,
        padding_mode: str = "zeros",
        *,
        exact: bool = False,
        image_size: PairLike | None = None,
        implementation: str = "auto",
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        out_channels = check_count(out_channels, "Conv2d", "out_channels")
        if in_channels is not None:
            in_channels = check_count(in_channels, "Conv2d", "in_channels")
        groups = check_count(groups, "Conv2d", "groups")
        if out_channels % groups or (in_channels or groups) % groups:
            raise ParameterError.expected(
                "Conv2d", "groups", f"a positive divisor of {in_channels} and {out_channels} channels", repr(groups)
            )
        if not is_flag(bias) and (not isinstance(bias, str) or bias not in ("channel", "position")):
            raise ParameterError.expected("Conv2d", "bias", "True, False, 'channel' or 'position'", shown(bias))
        if isinstance(bias, str) and bias == "position" and image_size is None:
            raise ParameterError.expected("Conv2d", "image_size", "(H, W) of the input for a bias per position", "none")
        super().__init__(bool(bias), device, dtype, name)
        self.bias_size = (
            pair(image_size, "Conv2d", "image_size") if image_size is not None and bias == "position" else None
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(kernel_size, "Conv2d", "kernel_size")
        self.stride, self.dilation = pair(stride, "Conv2d", "stride"), pair(dilation, "Conv2d", "dilation")
        sides(padding, Window(self.kernel_size, self.stride, dilation=self.dilation), 1, 1, "Conv2d")
        self.padding, self.exact = plain_padding(padding), check_flag(exact, "Conv2d", "exact")
        check_choice(padding_mode, "Conv2d", "padding_mode", F.PADDING_MODES)
        check_implementation(implementation, "Conv2d")
        self.padding_mode, self.implementation = padding_mode, implementation
        if in_channels is not None:
            self.materialise(in_channels // groups)

    def weight_shape(self, in_size: int) -> tuple[int, ...]:
        self.in_channels = in_size * self.groups
        return self.out_channels, in_size, *self.kernel_size

    def bias_shape(self) -> tuple[int, ...]:
        if self.bias_size is None:
            return super().bias_shape()
        window = read_window("Conv2d", self.bias_size, self.kernel_size, self.stride, self.padding, self.dilation)
        return self.out_channels, *window.output_size(*self.bias_size)

    def in_size_of(self, x: Tensor) -> int:
        return group_channels(x, "Conv2d", self.groups)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.ready_for(x)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, single = image_batch(x, "Conv2d")
            window = read_window("Conv2d", x.shape[2:], self.kernel_size, self.stride, padding, self.dilation)  # type: ignore[arg-type]
            x, padding = unbatch(F.pad2d(x, window.padding, self.padding_mode), single), 0
        return F.conv2d(
            x, weight, self.bias, self.stride, padding, self.dilation, self.groups, self.exact, self.implementation
        )

    def extra_repr(self) -> str:
        words = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        for key, usual in (
            ("stride", (1, 1)),
            ("padding", 0),
            ("dilation", (1, 1)),
            ("groups", 1),
            ("exact", False),
            ("padding_mode", "zeros"),
            ("implementation", "auto"),
        ):
            if getattr(self, key) != usual:
                words.append(f"{key}={getattr(self, key)!r}")
        return ", ".join(words if self._wants_bias else [*words, "bias=False"])


class Linear(Weighted):
    """Fully connected: (..., I) -> (..., O). in_features=None takes the size of the first input.

    >>> import gpucnn
    >>> Linear(3, 2)(gpucnn.tensor([[1.0, 2.0, 3.0]])).shape
    (1, 2)
    """

    def __init__(
        self,
        in_features: int | None,
        out_features: int,
        bias: bool = True,
        *,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        out_features = check_count(out_features, "Linear", "out_features")
        if in_features is not None:
            in_features = check_count(in_features, "Linear", "in_features")
        super().__init__(bias, device, dtype, name)
        self.in_features, self.out_features = in_features, out_features
        if in_features is not None:
            self.materialise(in_features)

    def weight_shape(self, in_size: int) -> tuple[int, ...]:
        self.in_features = in_size
        return self.out_features, in_size

    def in_size_of(self, x: Tensor) -> int:
        check_float(x, "Linear")
        if not x.ndim or not x.shape[-1]:
            raise ShapeError.expected("Linear", "input", "at least one feature in the last axis", f"shape {x.shape}")
        return x.shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.ready_for(x), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self._wants_bias else ", bias=False")


class Flatten(Module):
    """Axes start_dim to end_dim become one: (N, C, H, W) -> (N, C*H*W).

    >>> import gpucnn
    >>> Flatten()(gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).shape
    (1, 4)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1, *, name: str | None = None) -> None:
        super().__init__(name)
        self.start_dim = check_int(start_dim, "Flatten", "start_dim")
        self.end_dim = check_int(end_dim, "Flatten", "end_dim")

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)


class Dropout(Module):
    """In training, each element is 0 with probability p and otherwise divided by 1 - p; see ``functional.dropout``.

    >>> import gpucnn
    >>> Dropout(0.5).eval()(gpucnn.tensor([1.0])).tolist()
    [1.0]
    """

    def __init__(self, p: float = 0.5, *, generator: Generator | None = None, name: str | None = None) -> None:
        super().__init__(name)
        self.p, self.generator = check_probability(p, type(self).__name__, "p"), generator

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training, self.generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout2d(Dropout):
    """In training, each channel of each image is 0 with probability p; see ``functional.dropout2d``.

    >>> import gpucnn
    >>> Dropout2d(0.5).eval()(gpucnn.tensor([[[[1.0]]]])).tolist()
    [[[[1.0]]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.p, self.training, self.generator)
