"""Layers that resize images."""

from __future__ import annotations

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.checks import check_choice, check_flag
from gpucnn.functional.arguments import pair
from gpucnn.functional.resize import MODES, resized
from gpucnn.nn.layer import Layer, Shape, images_of
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
