"""Output shape, cost and receptive field of each layer of a network."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

from gpucnn import nn
from gpucnn.analysis.hooks import check_module, home_of, waits, watched
from gpucnn.autograd import Tensor
from gpucnn.backend import Generator, drawing_from, ops
from gpucnn.checks import is_count
from gpucnn.errors import DTypeError, ShapeError
from gpucnn.nn.receptive_field import Field, map_size, merged


@dataclass(frozen=True)
class SummaryRow:
    """One call of one layer, on a batch of one image.

    name: as in ``named_modules``, empty if the model is a single layer. parameters: 0 if an earlier row counts them.
    multiply_adds: of convolutions and fully connected layers, without bias; 0 for all others. activation_bytes: of the
    output. im2col_bytes: of the matrix that a convolution by plain im2col multiplies with its filters, 0 for other layers.
    receptive_field: rows and columns of the image that one output sees, padding included; stride: pixels of the image from
    one output to its neighbour. Both are None after a function between layers, or a layer of an unknown class.

    >>> from gpucnn import nn
    >>> row = summary(nn.Conv2d(1, 6, 5, padding=2), (1, 28, 28)).rows[0]
    >>> row.output_shape, row.parameters, row.multiply_adds, row.receptive_field
    ((1, 6, 28, 28), 156, 117600, (5, 5))
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int
    im2col_bytes: int
    receptive_field: tuple[int, int] | None
    stride: tuple[float, float] | None


@dataclass(frozen=True)
class Summary:
    """A network, layer by layer: ``print`` it, read ``rows``, or take ``to_dict()``.

    Each parameter counts once, in the first row of its layer; ``parameters`` is of the whole network, called or not.

    >>> from gpucnn import models
    >>> summary(models.lenet(), (1, 28, 28)).parameters
    61706
    """

    model: str
    input_shape: tuple[int, ...]
    dtype: str
    rows: tuple[SummaryRow, ...]
    parameters: int
    trainable_parameters: int

    @property
    def multiply_adds(self) -> int:
        """Of all layers, for one image."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Of all outputs, for one image."""
        return sum(row.activation_bytes for row in self.rows)

    @property
    def im2col_bytes(self) -> int:
        """Of all column matrices, for one image."""
        return sum(row.im2col_bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return model, input_shape, dtype, layers (a list of dicts) and totals as JSON values."""
        layers = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(row).items()}
            for row in self.rows
        ]
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "dtype": self.dtype,
            "layers": layers,
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "multiply_adds": self.multiply_adds,
            "activation_bytes": self.activation_bytes,
            "im2col_bytes": self.im2col_bytes,
        }

    def __str__(self) -> str:
        head = [
            "layer", "class", "output shape", "parameters", "multiply-adds", "activation bytes", "im2col bytes",
            "receptive field", "stride",
        ]  # fmt: skip
        body = [
            [
                row.name or "-",
                row.kind,
                "x".join(map(str, row.output_shape)),
                *(f"{n:,}" for n in (row.parameters, row.multiply_adds, row.activation_bytes, row.im2col_bytes)),
                _pair(row.receptive_field),
                _pair(row.stride),
            ]
            for row in self.rows
        ]
        totals = (self.parameters, self.multiply_adds, self.activation_bytes, self.im2col_bytes)
        lines = [head, *body, ["total", "", "", *(f"{n:,}" for n in totals), "", ""]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        texts = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, texts))
        frozen = self.parameters - self.trainable_parameters
        about = f"{self.model} on one image of {'x'.join(map(str, self.input_shape))}, {self.dtype}"
        if frozen:
            about += f"; {frozen:,} parameters are frozen"
        return "\n".join([about, texts[0], rule, *texts[1:-1], rule, texts[-1]])


def _pair(value: tuple[float, float] | None) -> str:
    return "-" if value is None else f"{value[0]:g}x{value[1]:g}"


def summary(model: nn.Module, input_shape: tuple[int, ...], dtype: Any = None) -> Summary:
    """Return output shape, cost and receptive field of each layer, from one run on a batch of one: zeros of ``input_shape``.

    input_shape: of one input, without the batch: (C, H, W), (C, L) or (features,). dtype: by default that of the model's
    parameters. The run is in evaluation mode and records nothing; the model stays as it was, and layers that infer their
    input size still do. ShapeError for an impossible shape; the layers' errors for one that does not fit.
    Receptive fields: see ``gpucnn.nn.receptive_field``.

    >>> from gpucnn import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 1, 3, bias=False))
    >>> print(summary(net, (1, 7, 7)))
    Sequential on one image of 1x7x7, float32
    layer  class   output shape  parameters  multiply-adds  activation bytes  im2col bytes  receptive field  stride
    ---------------------------------------------------------------------------------------------------------------
    0      Conv2d  1x1x5x5                9            225               100           900              3x3     1x1
    1      Conv2d  1x1x3x3                9             81                36           324              5x5     1x1
    ---------------------------------------------------------------------------------------------------------------
    total                                18            306               136         1,224
    """
    check_module(model, "summary")
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    if not shape or not all(is_count(n, 1) for n in shape):
        raise ShapeError.expected(
            "summary", "input_shape", "positive ints such as (C, H, W), without the batch", repr(input_shape)
        )
    backend, own_dtype = home_of(model)
    net = copy.deepcopy(model) if waits(model) else model
    try:
        zeros = ops.zeros(backend, (1, *shape), own_dtype if dtype is None else dtype)
    except TypeError:
        raise DTypeError.expected("summary", "dtype", "a dtype of numbers", repr(dtype)) from None
    x = Tensor(zeros, backend)
    watcher = _Watcher(net, x)
    with drawing_from(Generator()), watched(net, net.modules(), watcher.after):
        net(x)
    sizes: dict[str, int] = {}
    for path, parameter in net.named_parameters():
        owner = path.rpartition(".")[0]
        sizes[owner] = sizes.get(owner, 0) + parameter.size
    rows = tuple(dataclasses.replace(row, parameters=sizes.pop(row.name, 0)) for row in watcher.rows)
    counts = [(parameter.size, parameter.requires_grad) for parameter in net.parameters()]
    return Summary(
        type(model).__name__,
        shape,
        str(x.dtype),
        rows,
        sum(size for size, _ in counts),
        sum(size for size, trained in counts if trained),
    )


class _Watcher:
    """Records every call; follows each tensor's receptive field from layer to layer."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.rows: list[SummaryRow] = []
        self._names = {id(module): name for name, module in model.named_modules()}
        # The tensors themselves are kept too: an id is nobody else's for as long as its object lives.
        self._fields: dict[int, tuple[Tensor, Field | None]] = {}
        self._last: dict[int, Field | None] = {}
        self._note(x, Field(map_size(x.shape)) if x.ndim in (3, 4) else None)

    def _note(self, tensor: Tensor, field: Field | None) -> None:
        self._fields[id(tensor)] = tensor, field

    def _field_of(self, tensor: Any) -> Field | None:
        known = self._fields.get(id(tensor))
        return None if known is None else known[1]

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        x = inputs[0] if inputs else None
        inner = list(module.children())
        joined = module.branches() if isinstance(module, nn.Layer) else []
        if id(output) not in self._fields:
            before = self._field_of(x)
            if joined:
                field = merged([before if layer is None else self._last.get(id(layer)) for layer in joined])
            else:
                field = None
                if before is not None and isinstance(module, nn.Layer) and not inner:
                    field = module.receptive_field(before)
            self._note(output, field)
        field = self._last[id(module)] = self._field_of(output)
        if inner and not joined and not module._parameters:
            return
        work = columns = 0
        if isinstance(module, nn.Layer) and not inner and isinstance(x, Tensor):
            work, columns = module.multiply_adds(x.shape), module.column_elements(x.shape)
        self.rows.append(
            SummaryRow(
                self._names[id(module)],
                type(module).__name__,
                output.shape,
                0,
                work,
                output.size * output.dtype.itemsize,
                columns * output.dtype.itemsize,
                None if field is None else field.pixels,
                None if field is None else field.stride,
            )
        )
