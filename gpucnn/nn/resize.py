"""Layers that give images of another size, or filters to each position."""

from __future__ import annotations

import math
from typing import Any

from gpucnn import functional as F
from gpucnn.autograd import Parameter, Tensor
from gpucnn.backend import Backend
from gpucnn.checks import check_choice, check_count, check_flag
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import Padding, PairLike, pair, plain_padding, read_window
from gpucnn.functional.resize import MODES, resized
from gpucnn.nn import init
from gpucnn.nn.layer import Layer, Shape, dtype_of, images_of, new_parameter
from gpucnn.nn.receptive_field import Field


class Upsample(Layer):
    """Images of another height and width: (N, C, H, W) -> (N, C, OH, OW); see ``functional.interpolate``.

    >>> import gpucnn
    >>> Upsample(scale_factor=2.0)(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 3.0, 3.0]]]
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        scale_factor: float | None = None,
        mode: str = "nearest",
        align_corners: bool = False,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        resized("Upsample", (2**20, 2**20), size, scale_factor)
        self.size = None if size is None else pair(size, "Upsample", "size")
        self.scale_factor, self.mode = scale_factor, check_choice(mode, "Upsample", "mode", MODES)
        self.align_corners = check_flag(align_corners, "Upsample", "align_corners")

    def output_shape(self, shape: Shape) -> Shape:
        lead, size = images_of("Upsample", shape, 2)
        return *lead, *resized("Upsample", size, self.size, self.scale_factor)

    def receptive_field(self, field: Field) -> Field | None:
        return None  # a pixel of one size lies between those of another

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)


class LocallyConnected2d(Layer):
    """A convolution whose filters are not shared: (N, C, H, W) -> (N, F, OH, OW); see ``functional.locally_connected2d``.

    image_size: (H, W) of the images, or one number for both, which says how many filters there are: the weight has shape
    (OH, OW, F, C, KH, KW), the bias (F, OH, OW). Initial weights as those of ``Conv2d``.

    >>> import gpucnn
    >>> layer = LocallyConnected2d(1, 2, 2, image_size=(3, 4))
    >>> layer(gpucnn.zeros(5, 1, 3, 4)).shape, layer.weight.shape
    ((5, 2, 2, 3), (2, 3, 2, 1, 2, 2))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: Padding = 0,
        dilation: PairLike = 1,
        bias: bool = True,
        *,
        image_size: PairLike,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        where, self._dtype = "LocallyConnected2d", dtype
        self.in_channels = check_count(in_channels, where, "in_channels")
        self.out_channels = check_count(out_channels, where, "out_channels")
        self.kernel_size, self.stride = pair(kernel_size, where, "kernel_size"), pair(stride, where, "stride")
        self.dilation, self.image_size = pair(dilation, where, "dilation"), pair(image_size, where, "image_size")
        self._wants_bias = check_flag(bias, where, "bias")
        window = read_window(where, self.image_size, self.kernel_size, self.stride, padding, self.dilation)
        self.padding = plain_padding(padding)
        self.positions = window.output_size(*self.image_size)
        fan_in = self.in_channels * math.prod(self.kernel_size)
        shape = (*self.positions, self.out_channels, self.in_channels, *self.kernel_size)
        self.weight: Parameter = new_parameter(shape, device, dtype)
        self.bias: Parameter | None = None
        init.uniform_(self.weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        if self._wants_bias:
            self.bias = new_parameter((self.out_channels, *self.positions), device, dtype)
            init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def argument(self, name: str) -> Any:
        if name == "bias":
            return self._wants_bias
        return dtype_of(self, self._dtype) if name == "dtype" else super().argument(name)

    def output_shape(self, shape: Shape) -> Shape:
        lead, size = images_of("LocallyConnected2d", shape, 2)
        if size != self.image_size or lead[-1] != self.in_channels:
            words = f"images of {self.in_channels} channels and {self.image_size}"
            raise ShapeError.expected("LocallyConnected2d", "input", words, f"shape {shape}")
        return *lead[:-1], self.out_channels, *self.positions

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(self.output_shape(shape)) * self.in_channels * math.prod(self.kernel_size)

    def receptive_field(self, field: Field) -> Field | None:
        if field.flat:
            return None
        kernel, stride, padding, dilation = self.kernel_size, self.stride, self.padding, self.dilation
        return field.window(read_window("LocallyConnected2d", field.size, kernel, stride, padding, dilation))

    def forward(self, x: Tensor) -> Tensor:
        return F.locally_connected2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
