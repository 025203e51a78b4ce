"""Networks as ONNX files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.autograd import Tensor
from gpucnn.autograd import tensor as make_tensor
from gpucnn.checks import is_count, is_integer, shown
from gpucnn.disk import write_atomically
from gpucnn.errors import GpucnnError, ParameterError, ShapeError, shortened
from gpucnn.nn import Module
from gpucnn.onnx.checking import largest_difference
from gpucnn.onnx.emitters import EMITTERS
from gpucnn.onnx.emitters.elementwise import element_type
from gpucnn.onnx.reading import FILE_BYTES, library
from gpucnn.onnx.tracing import Trace, merged, traced
from gpucnn.onnx.writing import Writer
from gpucnn.version import __version__

OLDEST_OPSET, NEWEST_OPSET = 13, 28
"""The operator sets that can be written."""
PREFIX = "gpucnn."
"""The prefix of the keys of the file's metadata."""
RUNS = (2, 3)
"""The numbers of images of the two runs if the batch is dynamic."""


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of uint8 images in training: x / 255, minus the mean, divided by std, for each channel.

    framing: how image files are brought to the network's size, "centred" or "cropped"; it is stored in the metadata.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    framing: str = "centred"

    def write(self, w: Writer, image: str, dtype: str) -> str:
        """Write x / 255 and the normalisation; return the name of the network's input."""
        shape = (len(self.mean), 1, 1)
        scale = np.array([1 / (255 * s) for s in self.std]).reshape(shape)
        shift = np.array([-m / s for m, s in zip(self.mean, self.std, strict=True)]).reshape(shape)
        x = w.node("Cast", [image], to=element_type(dtype))
        return w.node("Add", [w.node("Mul", [x, w.constant(scale, dtype)]), w.constant(shift, dtype)])


@dataclass(frozen=True)
class Exported:
    """The exported file: operator set, nodes, bytes, and the largest difference between onnxruntime's and gpucnn's outputs.

    The difference is None if onnxruntime is not installed.
    """

    opset: int
    nodes: int
    size: int
    difference: float | None


def export(
    net: Module,
    path: str | os.PathLike[str],
    input_shape: Sequence[int],
    *,
    opset: int | None = None,
    batch: int | str = "dynamic",
    preprocessing: Preprocessing | None = None,
    probabilities: bool = False,
    class_names: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write ``net``, in evaluation mode, to an ONNX file, checked by onnx and, if it is installed, by onnxruntime.

    net: any Module that computes with tensors; it is run twice and its operations are recorded. input_shape: of one input
    without the batch, such as (C, H, W). opset: from 13 to the newest, the default. batch: "dynamic", or a fixed number of
    images. preprocessing: put before the network, so that the file takes uint8 images. probabilities: add a softmax at the
    end. class_names and metadata are stored in the file.
    Raises ParameterError, which names the layer, for operations that ONNX cannot express, and if the path exists without
    ``overwrite``. The file is written under a temporary name and renamed.

    >>> import tempfile
    >>> from gpucnn import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(nn.Linear(3, 2), folder + "/net.onnx", (3,)).nodes
    1
    """
    file = Path(path)
    if file.exists() and not overwrite:
        raise ParameterError.expected("export", "path", "a new file", str(file), "pass overwrite=True (--overwrite)")
    model, inputs = _model(
        net, input_shape, opset, batch, preprocessing, probabilities, class_names, dict(metadata or {})
    )
    content = model.SerializeToString()
    check_model(model)
    reference = _outputs(net, inputs, preprocessing, probabilities)
    difference = largest_difference(content, {model.graph.input[0].name: inputs}, [reference])
    try:
        write_atomically(file, content)
    except OSError as error:
        raise GpucnnError(f"{file}: cannot be written ({error.strerror}).") from None
    return Exported(model.opset_import[0].version, len(model.graph.node), len(content), difference)


def check_model(model: Any) -> None:
    """Check an exported model by onnx; GpucnnError for its findings."""
    try:
        library().checker.check_model(model, full_check=True)
    except Exception as error:  # of several classes, some of C++
        raise GpucnnError(f"export: onnx.checker refuses the model ({shortened(error)}).") from None


def _model(
    net: Module,
    input_shape: Sequence[int],
    opset: int | None,
    batch: int | str,
    preprocessing: Preprocessing | None,
    probabilities: bool,
    class_names: Sequence[str] | None,
    metadata: dict[str, str],
) -> tuple[Any, Any]:
    """Return the model, and a batch of inputs to compare it on."""
    shape = _checked_shape(input_shape, preprocessing)
    counts = _counts(batch)
    dtype = next((str(p.dtype) for p in net.parameters()), "float32")
    inputs = [_example(shape, count, seed, dtype, preprocessing) for seed, count in enumerate(counts)]
    trace = trace_of(net, [[_prepared(net, x, preprocessing)] for x in inputs], counts)
    name = "image" if preprocessing is not None else "x"
    w = Writer(checked_opset(opset), name)
    start = name if preprocessing is None else preprocessing.write(w, name, dtype)
    (end,) = write_steps(w, trace, [start])[:1]
    if probabilities:
        end = w.node("Softmax", [end], axis=-1)
    out = w.end(end, "probabilities" if probabilities else "y")
    first = "N" if counts[0] != counts[1] else counts[0]
    result = [first, *trace_shapes(trace)[0][1:]] if trace_shapes(trace)[0] else []
    values = [(name, element_type(inputs[0].dtype), [first, *shape])]
    described = {"input": json.dumps({"shape": list(shape), **({} if preprocessing is None else vars(preprocessing))})}
    if class_names is not None:
        described["classes"] = json.dumps(list(map(str, class_names)))
    outputs = [(out, element_type(trace.steps[-1].dtype if trace.steps else dtype), result)]
    return finished(w, values, outputs, {**described, **metadata}), _example(
        shape, max(counts), 7, dtype, preprocessing
    )


def trace_of(net: Module, inputs: Sequence[Sequence[Tensor]], counts: tuple[int, int]) -> Trace:
    """Return the steps of a network, from a run on each of two lists of inputs with so many images."""
    return merged(traced(net, inputs[0]), traced(net, inputs[1]), counts)


def trace_shapes(trace: Trace) -> list[tuple[Any, ...]]:
    """Return the shapes of a trace's outputs."""
    made = {step.output: step.shape for step in trace.steps}
    return [made.get(number, ()) for number in trace.outputs]


def write_steps(w: Writer, trace: Trace, inputs: Sequence[str]) -> list[str]:
    """Write the steps of a trace, whose first values are ``inputs``; return the names of its outputs."""
    names: dict[int, str] = dict(enumerate(inputs))

    def name_of(number: int | None) -> str | None:
        if number is None:
            return None
        if number not in names:
            names[number] = w.constant(trace.constants[number].numpy(), None, trace.names.get(number, ""))
        return names[number]

    for step in trace.steps:
        if step.operation not in EMITTERS:
            operation = step.operation.rpartition(".")[2].lstrip("_")
            raise step.refused(f"the operation {operation} cannot be written in ONNX")
        w.layer = step.layer.replace(".", "/")
        names[step.output] = EMITTERS[step.operation](w, step, *map(name_of, step.inputs))
    w.layer = ""
    return [name_of(number) or "" for number in trace.outputs]


def finished(w: Writer, inputs: list[Any], outputs: list[Any], metadata: dict[str, str]) -> Any:
    """Return the model of what was written; inputs and outputs: name, element type and shape of each."""
    helper, numpy_helper = library().helper, library().numpy_helper
    size = sum(array.nbytes for array in w.initializers.values())
    if size >= FILE_BYTES - 2**20:
        raise ParameterError.expected(
            "export", "weights", "less than 2 GiB, the most an ONNX file holds", f"{size:,} bytes"
        )
    graph = helper.make_graph(
        w.nodes,
        "gpucnn",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in w.initializers.items()],
    )
    opsets = [helper.make_opsetid("", w.opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    model.producer_name, model.producer_version = "gpucnn", __version__
    helper.set_model_props(model, {f"{PREFIX}{key}": value for key, value in metadata.items()})
    return model


def checked_opset(opset: int | None) -> int:
    newest = min(NEWEST_OPSET, int(library().defs.onnx_opset_version()))
    if opset is None:
        return newest
    if not is_integer(opset) or not OLDEST_OPSET <= opset <= newest:
        raise ParameterError.expected("export", "opset", f"an int from {OLDEST_OPSET} to {newest}", shown(opset))
    return opset


def _counts(batch: int | str) -> tuple[int, int]:
    if batch == "dynamic":
        return RUNS
    if not is_count(batch, 1, 2**16):
        raise ParameterError.expected("export", "batch", "'dynamic', or a positive int", shown(batch))
    return int(batch), int(batch)


def _checked_shape(shape: Sequence[int], preprocessing: Preprocessing | None) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)) or not shape or not all(is_count(n, 1) for n in shape):
        words = "positive ints such as (C, H, W), without the batch"
        raise ShapeError.expected("export", "input_shape", words, shown(shape))
    if preprocessing is not None and (len(shape) != 3 or len(preprocessing.mean) != shape[0]):
        words = f"(C, H, W) with the {len(preprocessing.mean)} channels of the preprocessing"
        raise ShapeError.expected("export", "input_shape", words, tuple(shape))
    return tuple(map(int, shape))


def _example(shape: tuple[int, ...], count: int, seed: int, dtype: str, preprocessing: Preprocessing | None) -> Any:
    """Return inputs. Those of the second run are of the other sign, so that a decision by the numbers is another too."""
    rng = np.random.default_rng(seed // 2)
    if preprocessing is not None:
        images = rng.integers(0, 256, (count, *shape), np.uint8)
        return 255 - images if seed % 2 else images
    x = rng.standard_normal((count, *shape)).astype(dtype)
    return -2 * x if seed % 2 else x


def _prepared(net: Module, x: Any, preprocessing: Preprocessing | None) -> Tensor:
    """Return inputs as the network takes them, on its device."""
    like = next(iter(net.parameters()), None)
    dtype = "float32" if like is None else str(like.dtype)
    if preprocessing is not None:
        C = len(preprocessing.mean)
        mean, std = (np.array(v).reshape(C, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        x = ((x / 255 - mean) / std).astype(dtype)
    return make_tensor(x, None, None if like is None else like.backend)


def _outputs(net: Module, x: Any, preprocessing: Preprocessing | None, probabilities: bool) -> Any:
    """Return gpucnn's own outputs, to compare with."""
    from gpucnn import functional as F
    from gpucnn.nn.module import evaluating

    with evaluating(net):
        y = net(_prepared(net, x, preprocessing))
        y = y[0] if isinstance(y, tuple) else y
        return (F.softmax(y) if probabilities else y).numpy()
