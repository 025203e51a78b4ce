"""Normalisation layers."""

from __future__ import annotations

from typing import Any

from gpucnn import functional as F
from gpucnn.autograd import Parameter, Tensor
from gpucnn.backend import Backend, ops
from gpucnn.checks import check_count, check_flag, check_number
from gpucnn.errors import ShapeError
from gpucnn.functional.norm import axis_lengths, batch_norm_fused
from gpucnn.nn import init
from gpucnn.nn.layer import Layer, dtype_of, new_parameter


class Scaled(Layer):
    """Base class of layers with an optional learnt scale (initially ones) and shift (zeros) of one shape."""

    elementwise = True  # for receptive fields, the statistics are ignored
    always_shown = ("eps", "momentum")
    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        affine: bool,
        bias: bool,
        device: str | Backend | None,
        dtype: Any,
        name: str | None,
    ) -> None:
        super().__init__(name)
        self._dtype = dtype
        self.weight = self.bias = None
        if affine:
            self.weight = new_parameter(shape, device, dtype)
            init.ones_(self.weight)
        if affine and check_flag(bias, type(self).__name__, "bias"):
            self.bias = new_parameter(shape, device, dtype)

    def argument(self, name: str) -> Any:
        if name in ("affine", "elementwise_affine"):
            return self.weight is not None
        if name == "bias":
            return self.weight is None or self.bias is not None
        return dtype_of(self, self._dtype) if name == "dtype" else super().argument(name)


class BatchNorm(Scaled):
    """Normalises each channel: in training by the batch's statistics, in evaluation by the running statistics.

    With momentum=None the running statistics are the mean over all batches so far. bias=False: a scale without a shift.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor
    dimensions: tuple[int, ...] = ()
    optional_state = ("num_batches_tracked",)  # absent in weights saved before PyTorch 0.4

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        where = type(self).__name__
        num_features = check_count(num_features, where, "num_features")
        eps = check_number(eps, where, "eps", 0)
        if momentum is not None:
            momentum = check_number(momentum, where, "momentum", 0, 1)
        affine = check_flag(affine, where, "affine")
        track_running_stats = check_flag(track_running_stats, where, "track_running_stats")
        super().__init__((num_features,), affine, bias, device, dtype, name)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.running_mean = self.running_var = None
        if track_running_stats:
            mean, var = (new_parameter((num_features,), device, dtype).detach() for _ in range(2))
            self.register_buffer("running_mean", mean)
            self.register_buffer("running_var", init.ones_(var))
            self.register_buffer("num_batches_tracked", mean.like(mean.backend.asarray(0, "int64")))

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Return the output plus ``residual`` (of the same shape), with ``relu`` followed by ReLU, in one pass."""
        if x.ndim not in self.dimensions:
            wanted = " or ".join(str(n) for n in self.dimensions)
            raise ShapeError.expected(type(self).__name__, "input", f"{wanted} dimensions", f"shape {x.shape}")
        momentum = 0.0 if self.momentum is None else self.momentum
        counts = self.training and self.running_mean is not None
        if counts and self.momentum is None:
            momentum = 1 / (self.num_batches_tracked.item() + 1)
        y = batch_norm_fused(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps, residual,
            relu,
        )  # fmt: skip
        if counts:  # a batch that was refused does not count
            ops.add_to(x.backend, self.num_batches_tracked.array, 1)
        return y

    def argument(self, name: str) -> Any:
        return self.running_mean is not None if name == "track_running_stats" else super().argument(name)


class BatchNorm1d(BatchNorm):
    """Normalise (N, C) or (N, C, L) over the batch; see ``functional.batch_norm``.

    >>> import gpucnn
    >>> BatchNorm1d(1, eps=0.0)(gpucnn.tensor([[1.0], [3.0]])).tolist()
    [[-1.0], [1.0]]
    """

    dimensions = (2, 3)


class BatchNorm2d(BatchNorm):
    """Normalise (N, C, H, W) over batch and pixels; see ``functional.batch_norm``.

    >>> import gpucnn
    >>> BatchNorm2d(1, eps=0.0)(gpucnn.tensor([[[[1.0, 3.0]]]])).tolist()
    [[[[-1.0, 1.0]]]]
    """

    dimensions = (4,)


class LayerNorm(Scaled):
    """Normalise the last axes; see ``functional.layer_norm``.

    >>> import gpucnn
    >>> LayerNorm(2, eps=0.0)(gpucnn.tensor([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        shape = axis_lengths(normalized_shape, "LayerNorm", "normalized_shape")
        eps = check_number(eps, "LayerNorm", "eps", 0)
        elementwise_affine = check_flag(elementwise_affine, "LayerNorm", "elementwise_affine")
        super().__init__(shape, elementwise_affine, bias, device, dtype, name)
        self.normalized_shape, self.eps = shape, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm(Scaled):
    """Normalise the channels of each image in groups; see ``functional.group_norm``.

    >>> import gpucnn
    >>> GroupNorm(1, 2, eps=0.0)(gpucnn.tensor([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        num_groups = check_count(num_groups, "GroupNorm", "num_groups")
        num_channels = check_count(num_channels, "GroupNorm", "num_channels")
        affine = check_flag(affine, "GroupNorm", "affine")
        if num_channels % num_groups:
            raise ShapeError.expected("GroupNorm", "num_channels", f"a multiple of {num_groups} groups", num_channels)
        eps = check_number(eps, "GroupNorm", "eps", 0)
        super().__init__((num_channels,), affine, bias, device, dtype, name)
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
