"""Layers whose filters are not shared by the positions of an image."""

from __future__ import annotations

import math
from typing import Any

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.backend import Backend
from gpucnn.checks import check_count
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import Padding, PairLike, pair, plain_padding, read_window
from gpucnn.nn.layer import Shape, Weighted, images_of
from gpucnn.nn.receptive_field import Field


class LocallyConnected2d(Weighted):
    """A convolution whose filters are not shared: (N, C, H, W) -> (N, F, OH, OW); see ``functional.locally_connected2d``.

    image_size: (H, W) of the images, or one number for both. It determines the number of filters: the weight has shape
    (OH, OW, F, C, KH, KW), the bias (F, OH, OW). Weights are initialised as in ``Conv2d``.

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
        super().__init__(bias, device, dtype, name)
        where = "LocallyConnected2d"
        self.in_channels = check_count(in_channels, where, "in_channels")
        self.out_channels = check_count(out_channels, where, "out_channels")
        self.kernel_size, self.stride = pair(kernel_size, where, "kernel_size"), pair(stride, where, "stride")
        self.dilation, self.image_size = pair(dilation, where, "dilation"), pair(image_size, where, "image_size")
        window = read_window(where, self.image_size, self.kernel_size, self.stride, padding, self.dilation)
        self.padding = plain_padding(padding)
        self.positions = window.output_size(*self.image_size)
        self.materialise(self.in_channels)

    def weight_shape(self, in_size: int) -> tuple[int, ...]:
        return *self.positions, self.out_channels, in_size, *self.kernel_size

    def bias_shape(self) -> tuple[int, ...]:
        return self.out_channels, *self.positions

    def fan_in(self) -> int:
        return self.in_channels * math.prod(self.kernel_size)

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
        return F.locally_connected2d(x, self.ready_for(x), self.bias, self.stride, self.padding, self.dilation)
