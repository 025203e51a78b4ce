"""The node tests of the ONNX standard, its light models, and the counts that the docs publish."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_standard import arrays, node_tests, reason

import gpucnn
from gpucnn.errors import GpucnnError

onnx = pytest.importorskip("onnx")


def outputs_of(net: Any, inputs: dict[str, Any]) -> list[Any]:
    """Return the network's outputs for arrays by name, as arrays."""
    given = [np.asarray(inputs[value.name]) for value in net.graph.inputs]
    with gpucnn.no_grad():
        result = net(*[gpucnn.tensor(array, array.dtype) for array in given])
    return [one.numpy() for one in (result if isinstance(result, tuple) else (result,))]


def played(case: Any) -> str | None:
    """Load and run one node test; return what is wrong with its results, or None."""
    net = gpucnn.onnx.load(case.model.SerializeToString())
    names = [value.name for value in case.model.graph.input]
    for inputs, wanted in case.data_sets:
        found = outputs_of(net, dict(zip(names, arrays(inputs), strict=True)))
        for ours, theirs in zip(found, map(np.asarray, arrays(wanted)), strict=True):
            if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
                return f"{ours.shape} {ours.dtype}, expected {theirs.shape} {theirs.dtype}"
            if not np.allclose(ours, theirs, rtol=case.rtol, atol=case.atol, equal_nan=True):
                return f"differs by {np.abs(ours.astype(float) - theirs.astype(float)).max()}"
    return None


@pytest.mark.slow
def test_every_node_test_passes_or_is_named_with_its_reason() -> None:
    wrong: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for case in node_tests():
        why = reason(case)
        counts[why or "passed"] += 1
        try:
            found = played(case)
            if why is not None:
                found = f"passes, or gives something, though named: {why}"
        except GpucnnError as error:
            found = None if why is not None else f"{type(error).__name__}: {error}"
        if found is not None:
            wrong[case.name] = found
    assert wrong == {}
    assert counts["passed"] >= 1000


NOT_IN_ONNXRUNTIME = "onnxruntime has no Where of this element type"


def written(net: Any, inputs: list[Any]) -> list[Any]:
    """Return what onnxruntime gives for the file that the network's trace makes."""
    from gpucnn.onnx.checking import session
    from gpucnn.onnx.emitters.elementwise import element_type
    from gpucnn.onnx.exporting import finished, trace_of, write_steps
    from gpucnn.onnx.writing import Writer

    tensors = [gpucnn.tensor(array, array.dtype) for array in inputs]
    names = [f"in{i}" for i in range(len(tensors))]
    writer = Writer(onnx.defs.onnx_opset_version(), "in0")
    ends = write_steps(writer, trace_of(net, [tensors, tensors], (1, 1)), names)
    with gpucnn.no_grad():
        result = net(*tensors)
    results = result if isinstance(result, tuple) else (result,)
    values = [(name, element_type(t.dtype), t.shape) for name, t in zip(names, tensors, strict=True)]
    ends = [writer.end(end, f"out{i}") for i, end in enumerate(ends)]
    outputs = [(name, element_type(t.dtype), t.shape) for name, t in zip(ends, results, strict=True)]
    runtime = session(finished(writer, values, outputs, {}).SerializeToString())
    return runtime.run(None, dict(zip(names, inputs, strict=True)))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_every_node_test_that_passes_does_so_in_onnxruntime_after_export() -> None:
    pytest.importorskip("onnxruntime")
    wrong: dict[str, str] = {}
    refused: set[str] = set()
    passed = 0
    for case in node_tests():
        if reason(case) is not None:
            continue
        net = gpucnn.onnx.load(case.model.SerializeToString())
        names = [value.name for value in case.model.graph.input]
        for inputs, wanted in case.data_sets:
            given = dict(zip(names, map(np.asarray, arrays(inputs)), strict=True))
            try:
                found = written(net, [given[value.name] for value in net.graph.inputs])
            except GpucnnError as error:
                if "NOT_IMPLEMENTED" in str(error) and "for Where" in str(error):
                    refused.add(case.name)
                else:
                    wrong[case.name] = str(error)
                continue
            for theirs, values in zip(found, map(np.asarray, arrays(wanted)), strict=True):
                if (theirs.shape, theirs.dtype) != (values.shape, values.dtype):
                    wrong[case.name] = f"{theirs.shape} {theirs.dtype}, expected {values.shape} {values.dtype}"
                elif not np.allclose(theirs, values, rtol=case.rtol, atol=case.atol, equal_nan=True):
                    wrong[case.name] = "other values"
        passed += case.name not in refused | wrong.keys()
    assert wrong == {}
    assert all(re.search("(div|max|min)_u?int(8|16|64)$", name) for name in refused), NOT_IN_ONNXRUNTIME
    assert passed >= 1040


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
"""Real networks whose weights are made by the file itself, with the outputs that they must have."""


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
@pytest.mark.slow
def test_the_light_models_give_their_outputs(path: Path) -> None:
    from onnx import numpy_helper

    net = gpucnn.onnx.load(path)
    (value,) = net.graph.inputs
    shape = tuple(n or 1 for n in value.shape)
    # As onnx's own runner makes it: the numbers from 0 on, divided by how many there are.
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / np.prod(shape, dtype=np.float32)
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.with_name(f"{path.stem}_output_0.pb").read_bytes())
    (y,) = outputs_of(net, {value.name: x})
    np.testing.assert_allclose(y, numpy_helper.to_array(tensor), rtol=1e-3, atol=1e-4)


def test_the_light_models_are_there() -> None:
    assert len(list(LIGHT.glob("*.onnx"))) == 9
