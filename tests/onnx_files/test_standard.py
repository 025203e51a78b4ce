"""The node tests of the ONNX standard, its light models, and the counts that the docs publish."""

from __future__ import annotations

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
