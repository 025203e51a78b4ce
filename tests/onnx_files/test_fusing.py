"""What runs as one in evaluation without gradients: activations after convolutions, and computations of sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn.backend import Backend

onnx = pytest.importorskip("onnx")
evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
helper, numpy_helper = onnx.helper, onnx.numpy_helper
node = helper.make_node

RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.standard_normal((6, 3, 3, 3)).astype(np.float32), "b": RNG.standard_normal(6).astype(np.float32),
    "three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "two": np.float32(2), "half": np.float32(0.5),
    "first": np.array([0]), "second": np.array([1]), "rest": np.array([-1]),
}  # fmt: skip
SWISH = [node("Add", ["a", "three"], ["s"]), node("Clip", ["s", "zero", "six"], ["c"]), node("Mul", ["a", "c"], ["p"])]
ACTIVATIONS: dict[str, list[Any]] = {
    "Relu": [node("Relu", ["a"], ["y"])],
    "HardSwish": [node("HardSwish", ["a"], ["y"])],
    "HardSigmoid": [node("HardSigmoid", ["a"], ["y"], alpha=0.3, beta=0.4)],
    "HardSigmoid as it is": [node("HardSigmoid", ["a"], ["y"])],
    "hard swish": [*SWISH, node("Div", ["p", "six"], ["y"])],
    "hard swish, scaled": [
        *SWISH, node("Div", ["p", "six"], ["q"]), node("Mul", ["q", "two"], ["r"]), node("Add", ["r", "half"], ["y"]),
    ],
}  # fmt: skip


def network(nodes: list[Any], outputs: list[str], opset: int = 17) -> Any:
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()]
    values = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
    given = [helper.make_tensor_value_info("x", 1, ["N", 3, "H", "W"])]
    graph = helper.make_graph(nodes, "g", given, values, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def parts(net: Any) -> list[str]:
    return [getattr(part, "node", part).op for part in net._fused]


def agree(proto: Any, *shapes: tuple[int, ...]) -> Any:
    """Hold images of each shape, twice, against the definition and against the nodes one by one; return the module."""
    net = gpucnn.onnx.load(proto.SerializeToString())
    for shape in (*shapes, *shapes):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * 2
        wanted = evaluator(proto).run(None, {"x": x})[0]
        with gpucnn.no_grad():
            fast = net(gpucnn.tensor(x))
        np.testing.assert_allclose(fast.numpy(), wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(net(gpucnn.tensor(x)).numpy(), fast.numpy(), rtol=1e-4, atol=1e-5)
        fast.mul_(0)  # what it remembers does not share memory with what it gave
    return net


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_part_of_the_convolution(name: str, backend: Backend) -> None:
    nodes = [node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]), *ACTIVATIONS[name]]
    assert parts(agree(network(nodes, ["y"]), (2, 3, 8, 7), (1, 3, 5, 5))) == ["Conv"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_value_that_something_else_reads_is_there(name: str) -> None:
    nodes = [node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]), *ACTIVATIONS[name]]
    assert parts(agree(network([*nodes, node("Add", ["a", "y"], ["z"])], ["z"]), (2, 3, 8, 7)))[0] == "Conv"
    net = gpucnn.onnx.load(network(nodes, ["y", "a"]).SerializeToString())
    with gpucnn.no_grad():
        y, a = net(gpucnn.ones(1, 3, 4, 4))
    assert a.numpy().min() < 0
    assert not np.allclose(y.numpy(), a.numpy())


@pytest.mark.parametrize("name", ["Relu", "HardSwish", "HardSigmoid"])
def test_nan_stays(name: str, backend: Backend) -> None:
    net = gpucnn.onnx.load(
        network([node("Conv", ["x", "w", "b"], ["a"]), *ACTIVATIONS[name]], ["y"]).SerializeToString()
    )
    x = np.zeros((1, 3, 5, 5), np.float32)
    x[0, 1, 1, 1] = np.nan
    for _ in range(2):
        with gpucnn.no_grad():
            y = net(gpucnn.tensor(x)).numpy()
        assert np.isnan(y[0, :, :2, :2]).all()
        assert np.isfinite(y[0, :, 2]).all()


def test_sizes_are_computed_once_for_each_shape(backend: Backend) -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Shape", ["r"], ["shape"]),
        node("Cast", ["shape"], ["wide"], to=7),
        node("Slice", ["wide", "first", "second"], ["n"]),
        node("Concat", ["n", "rest"], ["size"], axis=0),
        node("Reshape", ["r", "size"], ["y"]),
    ]
    net = agree(network(nodes, ["y"]), (2, 3, 8, 7), (1, 3, 5, 5), (2, 3, 4, 14))
    assert parts(net) == ["Relu", "Shape", "Reshape"]
    assert len(net._fused[1].kept[1]) == 3


def test_sizes_that_are_results_or_several_are_computed_node_by_node() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "first", "second"], ["n"]),
        node("Slice", ["shape", "second", "three_"], ["c"]),
        node("Concat", ["n", "rest"], ["one"], axis=0),
        node("Concat", ["c", "rest"], ["two_"], axis=0),
        node("Reshape", ["x", "one"], ["a_"]),
        node("Reshape", ["x", "two_"], ["b_"]),
        node("ReduceSum", ["a_"], ["s"]),
        node("Mul", ["b_", "s"], ["y"]),
    ]
    proto = network(nodes, ["y"])
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2]), "three_"))
    assert parts(agree(proto, (2, 3, 4, 4)))[:2] == ["Shape", "Slice"]
    proto = network([node("Shape", ["x"], ["shape"]), node("Cast", ["shape"], ["y"], to=1)], ["y"])
    assert parts(agree(proto, (2, 3, 4, 4))) == ["Shape", "Cast"]
