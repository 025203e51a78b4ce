"""The contract of a backend, with the plain text of every array kernel, written once on the array module ``xp``.

Dimensions, here and everywhere: N images, C channels, H x W pixels, F filters (output channels), KH x KW kernel,
OH x OW output pixels, G groups. Activations are (N, C, H, W), weights (F, C/G, KH, KW), whatever their memory order.

Each method is the oracle for the faster one of the same name and signature in ``cpu.py`` or ``cuda.py``; a faster one
that does not handle a case returns what this one returns. ``ran`` counts which of the two did the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpucnn.backend import special
from gpucnn.backend.feeding import Feeding
from gpucnn.backend.generator import Generator
from gpucnn.backend.half import HalfStorage, mean
from gpucnn.backend.precision import Precision
from gpucnn.backend.recording import Recording
from gpucnn.backend.updates import Updates
from gpucnn.backend.window import Window

if TYPE_CHECKING:
    from gpucnn.backend.cuda_capture import Graph

Array = Any
"""An array of whichever module the backend computes with."""

Divisor = float | tuple[list[int], list[int]]
"""What average pooling divides by: one number, or the count of each output row and of each output column."""


PAIRS = Window((2, 2), (2, 2))
"""The window of 2x2 pooling."""

DEAD = 4
"""In the place of a 2x2 maximum: ReLU let nothing through, so no pixel gets its gradient."""


class Backend(HalfStorage, Precision, Updates, Feeding):
    """Arrays of one device, and the kernels that work on them. Use ``get_backend`` to get one."""

    name = "reference"
    xp: ModuleType

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<gpucnn backend {self.name}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copied model stays on the same device

    def __reduce__(self) -> Any:
        from gpucnn.backend.switch import get_backend

        return get_backend, (self.name,)  # a copy in another process finds its own

    # --- recorded steps ----------------------------------------------------------------------------------------

    @property
    def recording(self) -> Recording | None:
        """The step that this thread records or replays now; None as a rule."""
        return None

    def new_graph(self) -> Graph | None:
        """Return what records a step and replays it, or None where a step is as fast without."""
        return None

    # --- arrays ------------------------------------------------------------------------------------------------

    def owns(self, array: Any) -> bool:
        """Whether ``array`` lives on this device."""
        return isinstance(array, self.xp.ndarray)

    def asarray(self, data: Any, dtype: Any = None) -> Array:
        """Return ``data`` (nested numbers, or an array of the host) as an array of this device, copied only if needed."""
        return self.xp.asarray(data, dtype=dtype)

    def adopt(self, shared: Any) -> Array:
        """Return an array of this device over the memory of another library's; BufferError or the like where it cannot."""
        array = self.xp.from_dlpack(shared)
        if not array.flags.writeable:
            raise BufferError("it is read-only")
        return array

    def to_host(self, array: Array) -> Any:
        """Return a C-ordered NumPy copy of ``array``."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait until all work handed to the device is done."""

    def warm_up(self) -> None:
        """Compile now what would otherwise be compiled when it is first needed."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this device the one that ``xp`` allocates on."""
        yield

    def describe(self) -> dict[str, Any]:
        """Return what this device is, in words and numbers, for reports."""
        return {"device": self.name}

    # --- random numbers ----------------------------------------------------------------------------------------

    def _bit_generator(self, key: list[int]) -> Any:
        """Return the array module's counter-based bit generator for ``key``."""
        raise NotImplementedError

    def dropout_mask(self, shape: tuple[int, ...], p: float, dtype: Any, generator: Generator) -> Array:
        """Return an array that is 0 with probability ``p`` and 1/(1-p) otherwise (Srivastava et al. 2014, inverted)."""
        self.ran["dropout_mask.reference"] += 1
        if p >= 1:
            return self.xp.zeros(shape, dtype)
        draw = self.xp.random.Generator(self._bit_generator(generator.next_key()))
        keep = draw.random(shape, dtype=self.xp.float32) >= p
        return keep.astype(dtype) * self.xp.asarray(1 / (1 - p), dtype)

    def draw_uniform(self, shape: tuple[int, ...], low: float, high: float, dtype: Any, generator: Generator) -> Array:
        """Return uniform numbers of [low, high). Drawn on the host: one seed gives every device the same numbers."""
        draw = np.random.Generator(np.random.Philox(key=generator.next_key()))
        return self.asarray(draw.uniform(low, high, shape).astype(dtype))

    def draw_normal(self, shape: tuple[int, ...], mean: float, std: float, dtype: Any, generator: Generator) -> Array:
        """Return normal numbers. Drawn on the host: one seed gives every device the same numbers."""
        draw = np.random.Generator(np.random.Philox(key=generator.next_key()))
        return self.asarray(draw.normal(mean, std, shape).astype(dtype))

    def draw_truncated(
        self, shape: tuple[int, ...], mean: float, std: float, low: float, high: float, dtype: Any, generator: Generator
    ) -> Array:
        """Return normal numbers of [low, high], drawn on the host; what falls outside is drawn again."""
        draw = np.random.Generator(np.random.Philox(key=generator.next_key()))
        values = draw.normal(mean, std, shape)
        while (outside := (values < low) | (values > high)).any():
            values[outside] = draw.normal(mean, std, int(outside.sum()))
        return self.asarray(values.astype(dtype))

    def draw_orthogonal(self, rows: int, columns: int, dtype: Any, generator: Generator) -> Array:
        """Return a (rows, columns) matrix with orthonormal rows or columns, uniformly drawn on the host."""
        draw = np.random.Generator(np.random.Philox(key=generator.next_key()))
        q, r = np.linalg.qr(draw.standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.asarray((q if rows >= columns else q.T).astype(dtype))

    # --- im2col ------------------------------------------------------------------------------------------------

    def pad(self, x: Array, window: Window, fill: float = 0) -> Array:
        """Return ``x`` with the window's padding around its last two axes."""
        top, bottom, left, right = window.padding
        if not any(window.padding):
            return x
        return self.xp.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)

    def patches(self, x: Array, window: Window, fill: float = 0) -> Array:
        """Return the (N, C, OH, OW, KH, KW) view of what each window sees of the padded image."""
        N, C, H, W = x.shape
        OH, OW = window.output_size(H, W)
        (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
        padded = self.pad(x, window, fill)
        sN, sC, sH, sW = padded.strides
        return self.xp.lib.stride_tricks.as_strided(
            padded, (N, C, OH, OW, KH, KW), (sN, sC, sH * SH, sW * SW, sH * DH, sW * DW)
        )

    def im2col(self, x: Array, window: Window) -> Array:
        """Return the (N*OH*OW, C*KH*KW) matrix whose row is one window, ordered channel, row, column."""
        self.ran["im2col.reference"] += 1
        patches = self.patches(x, window)
        N, C, OH, OW, KH, KW = patches.shape
        return patches.transpose(0, 2, 3, 1, 4, 5).reshape(N * OH * OW, C * KH * KW)

    def col2im(self, columns: Array, shape: tuple[int, int, int, int], window: Window) -> Array:
        """Add each row of ``columns`` back to the pixels it came from: the adjoint of ``im2col``."""
        self.ran["col2im.reference"] += 1
        N, C, H, W = shape
        OH, OW = window.output_size(H, W)
        KH, KW = window.kernel
        patches = columns.reshape(N, OH, OW, C, KH, KW).transpose(0, 3, 1, 2, 4, 5)
        return self._scatter(patches, shape, window)

    def _scatter(self, patches: Array, shape: tuple[int, int, int, int], window: Window) -> Array:
        """Sum (N, C, OH, OW, KH, KW) patches into an image of ``shape``: the adjoint of ``patches``."""
        N, C, H, W = shape
        KH, KW = window.kernel
        top, _, left, _ = window.padding
        padded = self.xp.zeros((N, C, *window.padded_size(H, W)), patches.dtype)
        for kh in range(KH):
            for kw in range(KW):
                padded[(..., *self._seen(window, H, W, kh, kw))] += patches[..., kh, kw]
        return self.xp.ascontiguousarray(padded[:, :, top : top + H, left : left + W])

    @staticmethod
    def _seen(window: Window, H: int, W: int, kh: int, kw: int) -> tuple[slice, slice]:
        """Return the rows and columns of the padded image that kernel element (kh, kw) sees."""
        (OH, OW), (SH, SW), (DH, DW) = window.output_size(H, W), window.stride, window.dilation
        row, column = kh * DH, kw * DW
        return slice(row, row + SH * (OH - 1) + 1, SH), slice(column, column + SW * (OW - 1) + 1, SW)

    # --- convolution (cross-correlation, as in every framework) --------------------------------------------------

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
        """Return y (N, F, OH, OW): every window's inner product with every filter of its group, plus the bias."""
        self.ran["conv2d.reference"] += 1
        F, G, N = w.shape[0], groups, x.shape[0]
        OH, OW = window.output_size(*x.shape[2:])
        y = self.xp.matmul(self._grouped_columns(x, window, G), self._grouped_filters(w, G).transpose(0, 2, 1))
        y = y.transpose(0, 2, 1).reshape(F, N, OH, OW).transpose(1, 0, 2, 3)
        return self.xp.ascontiguousarray(y if b is None else y + b[:, None, None])

    def conv2d_input_gradient(
        self, dy: Array, w: Array, shape: tuple[int, int, int, int], window: Window, groups: int = 1
    ) -> Array:
        """Return dL/dx of ``shape`` from dL/dy: every output pixel sends its filter back to the window it saw."""
        self.ran["conv2d_input_gradient.reference"] += 1
        columns = self.xp.matmul(self._grouped_outputs(dy, groups), self._grouped_filters(w, groups))
        G, P, K = columns.shape
        return self.col2im(columns.transpose(1, 0, 2).reshape(P, G * K), shape, window)

    def conv2d_weight_gradient(
        self, x: Array, dy: Array, shape: tuple[int, int, int, int], window: Window, groups: int = 1
    ) -> tuple[Array, Array]:
        """Return dL/dw of ``shape``, the windows each weighted by its output's gradient, summed; and dL/db, (F,)."""
        self.ran["conv2d_weight_gradient.reference"] += 1
        columns = self._grouped_columns(x, window, groups)
        dw = self.xp.matmul(self._grouped_outputs(dy, groups).transpose(0, 2, 1), columns)
        return dw.reshape(shape), dy.sum((0, 2, 3))

    def _grouped_columns(self, x: Array, window: Window, groups: int) -> Array:
        """Return (G, N*OH*OW, C/G*KH*KW)."""
        columns = self.im2col(x, window)
        P, K = columns.shape
        return columns.reshape(P, groups, K // groups).transpose(1, 0, 2)

    def _grouped_filters(self, w: Array, groups: int) -> Array:
        """Return (G, F/G, C/G*KH*KW)."""
        F, CG, KH, KW = w.shape
        return w.reshape(groups, F // groups, CG * KH * KW)

    def _grouped_outputs(self, dy: Array, groups: int) -> Array:
        """Return (G, N*OH*OW, F/G)."""
        N, F, OH, OW = dy.shape
        return dy.transpose(1, 0, 2, 3).reshape(groups, F // groups, N * OH * OW).transpose(0, 2, 1)

    def conv2d_relu_max_pool2d(
        self, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_place: bool = True
    ) -> tuple[Array, Array | None]:
        """Return relu(max_pool2d(conv2d(x, w, b), 2)), and what ``conv2d_relu_max_pool2d_gradients`` needs to undo it.

        ReLU commutes with the maximum, and costs a quarter after it.
        """
        self.ran["conv2d_relu_max_pool2d.reference"] += 1
        y, place = self.max_pool2d(self.conv2d(x, w, b, window, groups), PAIRS, needs_place)
        y = self.relu(y)
        return y, None if place is None else self.xp.where(y > 0, place, place.dtype.type(DEAD))

    def conv2d_relu_max_pool2d_gradients(
        self, x: Array, w: Array, dy: Array, place: Array, window: Window, groups: int, needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None, Array | None]:
        """Return dL/dx, dL/dw, dL/db; ``needs`` says whether for the images and for the parameters."""
        self.ran["conv2d_relu_max_pool2d_gradients.reference"] += 1
        N, F = x.shape[0], w.shape[0]
        between = self.max_pool2d_gradient(dy, place, (N, F, *window.output_size(*x.shape[2:])), PAIRS)
        dx = self.conv2d_input_gradient(between, w, x.shape, window, groups) if needs[0] else None
        if not needs[1]:
            return dx, None, None
        return (dx, *self.conv2d_weight_gradient(x, between, w.shape, window, groups))

    # --- pooling -----------------------------------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window, needs_place: bool = True) -> tuple[Array, Array | None]:
        """Return each window's maximum and, where needed, its place in the window (row-major, the first of equals)."""
        self.ran["max_pool2d.reference"] += 1
        patches = self.patches(x, window, fill=-float("inf"))
        N, C, OH, OW, KH, KW = patches.shape
        patches = patches.reshape(N, C, OH, OW, KH * KW)
        place = patches.argmax(-1)
        y = self.xp.take_along_axis(patches, place[..., None], -1)[..., 0]
        if any(window.padding):  # a window of nothing but -inf must not choose a padded pixel
            inside = self.patches(self.xp.ones((1, 1, *x.shape[2:]), bool), window)
            place = self.xp.where(y == -float("inf"), inside.reshape(1, 1, OH, OW, KH * KW).argmax(-1), place)
        return y, place.astype(self.xp.int16 if KH * KW > 127 else self.xp.int8)

    def max_pool2d_gradient(self, dy: Array, place: Array, shape: tuple[int, int, int, int], window: Window) -> Array:
        """Return dL/dx: each output's gradient goes to the pixel that was the maximum."""
        self.ran["max_pool2d_gradient.reference"] += 1
        elements = self.xp.arange(window.kernel[0] * window.kernel[1], dtype=place.dtype)
        patches = self.xp.where(place[..., None] == elements, dy[..., None], self.xp.zeros((), dy.dtype))
        return self._scatter(patches.reshape(*dy.shape, *window.kernel), shape, window)

    def avg_pool2d(self, x: Array, window: Window, divisor: Divisor) -> Array:
        """Return each window's sum over ``divisor``; padded pixels add nothing."""
        self.ran["avg_pool2d.reference"] += 1
        return self.patches(x, window).sum((-2, -1)) / self._counts(divisor, x.dtype)

    def avg_pool2d_gradient(
        self, dy: Array, shape: tuple[int, int, int, int], window: Window, divisor: Divisor
    ) -> Array:
        """Return dL/dx: each output's gradient is spread evenly over its window."""
        self.ran["avg_pool2d_gradient.reference"] += 1
        share = (dy / self._counts(divisor, dy.dtype))[..., None, None]
        return self._scatter(self.xp.broadcast_to(share, (*dy.shape, *window.kernel)), shape, window)

    def _counts(self, divisor: Divisor, dtype: Any) -> Array:
        if isinstance(divisor, tuple):
            rows, columns = (self.asarray(counts, dtype) for counts in divisor)
            return rows[:, None] * columns
        return self.asarray(divisor, dtype)

    # --- normalisation -----------------------------------------------------------------------------------------

    def standardise(self, x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array]:
        """Return (x - mean) / sqrt(variance + eps) over ``axes``, and what ``standardise_gradient`` needs: the factor."""
        self.ran["standardise.reference"] += 1
        centred = x - x.mean(axes, keepdims=True)
        factor = 1 / self.xp.sqrt((centred * centred).mean(axes, keepdims=True) + eps)
        return centred * factor, factor

    def standardise_gradient(self, dy: Array, y: Array, factor: Array, axes: tuple[int, ...]) -> Array:
        """Return dL/dx from dL/dy and what ``standardise`` returned."""
        self.ran["standardise_gradient.reference"] += 1
        along = (dy * y).mean(axes, keepdims=True)
        return factor * (dy - dy.mean(axes, keepdims=True) - y * along)

    # --- products, activation, loss ----------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array) -> Array:
        """Return the matrix product, batched over leading axes as in ``numpy.matmul``."""
        return self.xp.matmul(a, b)

    def affine(self, x: Array, w: Array, b: Array | None) -> Array:
        """Return y (M, O) = x w^T + b for rows x (M, I), w (O, I), b (O,)."""
        self.ran["affine.reference"] += 1
        y = self.matmul(x, w.T)
        if b is not None:
            y += b
        return y

    def affine_parameter_gradients(self, x: Array, dy: Array) -> tuple[Array, Array]:
        """Return dL/dw (O, I) and dL/db (O,) from the rows and dL/dy (M, O)."""
        self.ran["affine_parameter_gradients.reference"] += 1
        return self.matmul(dy.T, x), dy.sum(0)

    def relu(self, x: Array) -> Array:
        """Return max(x, 0); NaN stays NaN."""
        return self.xp.maximum(x, self.xp.zeros((), x.dtype))

    def relu_gradient(self, dy: Array, y: Array) -> Array:
        """Return dL/dx where ``y`` is the output: dy where y > 0, else 0."""
        return self.xp.where(y > 0, dy, self.xp.zeros((), dy.dtype))

    def erf(self, x: Array) -> Array:
        """Return the error function of each element."""
        return special.erf(self.xp, x)

    def cross_entropy(self, logits: Array, target: Array, needs_gradient: bool) -> tuple[Array, Array | None]:
        """Return -log softmax(logits)[target], (N,), for (N, C) logits, and its gradient softmax - one_hot, (N, C)."""
        self.ran["cross_entropy.reference"] += 1
        rows = self.xp.arange(logits.shape[0])
        target = self.xp.where(target < 0, logits.shape[1], target)  # which no index may count from the end
        shifted = logits - logits.max(1, keepdims=True)
        exponentials = self.xp.exp(shifted)
        total = exponentials.sum(1, keepdims=True)
        losses = self.xp.log(total[:, 0]) - shifted[rows, target]
        if not needs_gradient:
            return losses, None
        gradient = exponentials / total
        gradient[rows, target] -= 1
        return losses, gradient

    def mean_loss(self, losses: Array, divisor: float) -> Array:
        """Return the sum of the losses over ``divisor``, of no dimensions."""
        return self.xp.asarray(mean(losses, None, False, divisor))

    def scale(self, x: Array, factor: Array, divisor: float) -> Array:
        """Return x times ``factor`` (of no dimensions) over ``divisor``."""
        return x * (factor / divisor)

    def copy_all(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """Copy each pair's second array into its first, of the same shape."""
        for target, source in pairs:
            target[...] = source
