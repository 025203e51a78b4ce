"""Loading ONNX files: weights that train, cutting a network, devices, and files that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend
from gpucnn.errors import CheckpointError, DTypeError, ParameterError, ShapeError

onnx = pytest.importorskip("onnx")
evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = 1


def model(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: list[str],
    constants: dict[str, Any] | None = None,
    opset: int = 17,
) -> Any:
    """Return a model; inputs: shape of each, float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def small() -> Any:
    """A convolution, batch normalisation, hard swish by its formula, global pooling and a linear layer."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"], name="bn"),
        helper.make_node("Add", ["b", "three"], ["c"]),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"]),
        helper.make_node("Mul", ["b", "d"], ["e"]),
        helper.make_node("Div", ["e", "six"], ["f"]),
        helper.make_node("GlobalAveragePool", ["f"], ["features"]),
        helper.make_node("Flatten", ["features"], ["g"]),
        helper.make_node("Gemm", ["g", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    f = np.float32
    constants = {
        "conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(f), "conv.bias": rng.standard_normal(4).astype(f),
        "bn.weight": rng.random(4).astype(f), "bn.bias": rng.standard_normal(4).astype(f),
        "bn.mean": rng.standard_normal(4).astype(f), "bn.var": rng.random(4).astype(f) + f(0.5),
        "three": f(3), "zero": f(0), "six": f(6),
        "fc.weight": rng.standard_normal((5, 4)).astype(f), "fc.bias": rng.standard_normal(5).astype(f),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 3, None, None]}, ["y"], constants)


def images(n: int = 2, size: int = 8) -> Any:
    return gpucnn.tensor(np.random.default_rng(1).standard_normal((n, 3, size, size)).astype(np.float32))


def reference(proto: Any, x: Any) -> Any:
    return evaluator(proto).run(None, {"x": x.numpy()})[0]


def test_the_values_are_those_of_the_standard(backend: Backend) -> None:
    net = gpucnn.onnx.load(small().SerializeToString())
    np.testing.assert_allclose(net(images()).numpy(), reference(small(), images()), rtol=1e-4, atol=1e-5)


def test_weights_are_parameters_under_their_names_and_formulas_are_not() -> None:
    net = gpucnn.onnx.load(small().SerializeToString())
    names = {"conv.weight", "conv.bias", "bn.weight", "bn.bias", "fc.weight", "fc.bias"}
    assert {name for name, _ in net.named_parameters()} == names
    assert set(net.state_dict()) == names | {"bn.mean", "bn.var", "three", "six"}
    assert not net.training
    other = gpucnn.onnx.load(small().SerializeToString())
    other.load_state_dict({**net.state_dict(), "fc.bias": np.full(5, 7, np.float32)})
    assert other.state_dict()["fc.bias"].tolist() == [7] * 5


def test_what_runs_in_evaluation_follows_the_weights() -> None:
    """There, convolutions with what follows are one, and are made anew when a weight changes."""
    net = gpucnn.onnx.load(small().SerializeToString())
    proto = small()
    for number in range(2):
        with gpucnn.no_grad():
            fast = net(images()).numpy()
        np.testing.assert_allclose(fast, net(images()).numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fast, reference(proto, images()), rtol=1e-4, atol=1e-5)
        state = net.state_dict()
        for tensor in proto.graph.initializer:
            if tensor.name in ("conv.weight", "bn.mean", "bn.var"):
                state[tensor.name] = state[tensor.name] * 1.5
                tensor.CopyFrom(numpy_helper.from_array(state[tensor.name], tensor.name))
        net.load_state_dict(state)
        assert number == 1 or not np.allclose(reference(proto, images()), fast, rtol=1e-3)
    from gpucnn.onnx.fusing import Fused

    assert [part.node.op for part in net._fused if isinstance(part, Fused)] == ["Conv"]


@pytest.mark.parametrize(
    ("options", "kernel"),
    [({"strides": [2, 2]}, (2, 2)), ({"strides": [3, 2]}, (3, 2)), ({"strides": [2, 2]}, (3, 2)), ({}, (1, 1)),
     ({"strides": [2, 2], "pads": [1, 0, 0, 1]}, (2, 2)), ({"strides": [2, 2], "output_shape": [11, 9]}, (2, 2))],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolutions_of_evaluation(options: dict[str, Any], kernel: Any, bias: bool) -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((3, 4, *kernel)).astype(np.float32)}
    if bias:
        constants["b"] = rng.standard_normal(4).astype(np.float32)
    constants["two"] = np.float32(2)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"] if bias else ["x", "w"], ["a"], **options),
        helper.make_node("Mul", ["a", "two"], ["y"]),
    ]
    proto = model(nodes, {"x": ["N", 3, None, None]}, ["y"], constants)
    x = gpucnn.tensor(rng.standard_normal((2, 3, 5, 4)).astype(np.float32))
    net = gpucnn.onnx.load(proto.SerializeToString())
    with gpucnn.no_grad():
        fast = net(x).numpy()
    np.testing.assert_allclose(fast, net(x).numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fast, reference(proto, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["C", "batch last", "neither", "small"])
def test_the_hard_swish_of_evaluation(order: str, backend: Backend) -> None:
    from gpucnn.onnx import tape

    x = np.random.default_rng(0).standard_normal((3, 8, 40, 42)).astype(np.float32) * 4
    x = x[:, :2, :3, :3] if order == "small" else x
    given = gpucnn.tensor(x)
    if order == "batch last":
        given = gpucnn.tensor(np.ascontiguousarray(x.transpose(1, 2, 3, 0))).transpose(3, 0, 1, 2)
    elif order == "neither":
        given = given[:, :, ::2]
    values = given.numpy().astype(np.float64)
    wanted = 0.7 * values * np.clip(values + 3, 0, 6) / 6 - 0.2
    np.testing.assert_allclose(tape.hardswish(given, 0.7, -0.2).numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    net = gpucnn.onnx.load(small().SerializeToString()).to("float64")
    x = images().to("float64")
    target = gpucnn.tensor([1, 3])
    loss = gpucnn.functional.cross_entropy(net(x), target)
    loss.backward()
    for name, parameter in net.named_parameters():
        values, step = parameter.numpy(), 1e-5
        index = np.unravel_index(values.size // 2, values.shape)
        found = []
        for sign in (1, -1):
            changed = values.copy()
            changed[index] += sign * step
            net.load_state_dict({**net.state_dict(), name: changed})
            found.append(gpucnn.functional.cross_entropy(net(x), target).item())
        net.load_state_dict({**net.state_dict(), name: values})
        assert parameter.grad.numpy()[index] == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-5, abs=1e-9), (
            name
        )


def test_it_trains_and_batch_normalisation_follows_the_batches() -> None:
    net = gpucnn.onnx.load(small().SerializeToString()).train()
    optimizer = optim.Adam(net.parameters(), lr=0.05)
    x, y = images(16), gpucnn.tensor(np.arange(16) % 5)
    before, losses = net.state_dict()["bn.mean"], []
    for _ in range(30):
        optimizer.zero_grad()
        loss = gpucnn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.7
    assert not np.allclose(net.state_dict()["bn.mean"], before)


def test_a_network_is_cut_before_its_head_and_gets_another() -> None:
    features = gpucnn.onnx.load(small().SerializeToString(), outputs=["features"])
    assert "fc.weight" not in features.state_dict()
    net = nn.Sequential(features, nn.Flatten(), nn.Linear(4, 2))
    net(images()).sum().backward()
    assert net[0].constant("conv.weight").grad is not None
    with pytest.raises(
        CheckpointError, match=r"outputs: expected names of values, got 'featuers'. Did you mean features\?"
    ):
        gpucnn.onnx.load(small().SerializeToString(), outputs=["featuers"])


def test_weights_that_nodes_make_are_weights() -> None:
    shape = np.array([2, 3, 1, 1])
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w"], value=numpy_helper.from_array(np.array([0.5], np.float32))),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    net = gpucnn.onnx.load(model(nodes, {"x": [1, 3, 4, 4]}, ["y"], {"s": shape}).SerializeToString())
    assert [(name, p.shape) for name, p in net.named_parameters()] == [("w", (2, 3, 1, 1))]
    assert len(net.graph.nodes) == 1


def test_inputs_are_checked() -> None:
    net = gpucnn.onnx.load(small().SerializeToString())
    with pytest.raises(ShapeError, match=r"input x: expected shape \(\?, 3, \?, \?\), got \(2, 4, 8, 8\)"):
        net(gpucnn.tensor(np.zeros((2, 4, 8, 8), np.float32)))
    with pytest.raises(DTypeError, match="input x: expected float32, got uint8"):
        net(gpucnn.tensor(np.zeros((2, 3, 8, 8), np.uint8)))
    with pytest.raises(DTypeError, match=r"Wrap it in gpucnn.tensor"):
        net(np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(ParameterError, match=r"inputs: expected 1 tensors \(x\), got 0"):
        net()


def test_values_outside_the_file_are_read_from_its_folder_only(tmp_path: Path) -> None:
    path = tmp_path / "models" / "m.onnx"
    path.parent.mkdir()
    onnx.save_model(small(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    net = gpucnn.onnx.load(path)
    np.testing.assert_allclose(net(images()).numpy(), reference(small(), images()), rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="a file beside it"):
        gpucnn.onnx.load(path.read_bytes())
    (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match=r"location: expected a file"):
        gpucnn.onnx.load(path)
    (path.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match=r"location: expected a file"):
        gpucnn.onnx.load(path)


def edited(edit: Callable[[Any], Any]) -> bytes:
    proto = small()
    edit(proto)
    return proto.SerializeToString()  # type: ignore[no-any-return]


def huge(proto: Any) -> None:
    proto.graph.initializer[0].dims[:] = [2**20, 2**20, 3, 3]


def circle(proto: Any) -> None:
    proto.graph.node[2].input[0] = "f"


def terabyte(proto: Any) -> None:
    nodes = [
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([2**20, 2**20]))),
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("Add", ["y", "z"], ["end"]),
    ]
    proto.graph.node.extend(nodes)
    proto.graph.output[0].name = "end"


def outside(proto: Any) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../../etc/passwd")


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a weight larger than the file": (huge, r"initialiser 'conv.weight': data: expected [\d,]+ bytes for shape"),
    "a circle": (circle, r"node .* its own result"),
    "a shape of a terabyte": (terabyte, r"output: expected at most 536,870,912 bytes, got 4,398,046,511,104"),
    "a type NumPy has not": (lambda p: setattr(p.graph.initializer[0], "data_type", 16), "type: .*, got bfloat16"),
    "a type of no meaning": (lambda p: setattr(p.graph.initializer[0], "data_type", 99), "type: .*, got 99"),
    "a negative length": (lambda p: p.graph.initializer[0].dims.__setitem__(0, -4), "expected at most 32 lengths"),
    "an unknown value": (lambda p: p.graph.node[0].input.__setitem__(0, "nix"), "a value of the graph, got 'nix'"),
    "one name twice": (lambda p: p.graph.node[1].output.__setitem__(0, "a"), "a name of its own, got 'a'"),
    "an operator set to come": (lambda p: setattr(p.opset_import[0], "version", 9999), "version: expected 1 to"),
    "no output": (lambda p: p.graph.ClearField("output"), "the graph has no output"),
    "an unknown operator": (lambda p: setattr(p.graph.node[0], "op_type", "Fold"), r"\(Fold\): there is no such operator"),
    "another domain": (lambda p: setattr(p.graph.node[0], "domain", "ai.x"), r"node 'conv' \(ai.x.Conv\): there is no"),
    "too many inputs": (lambda p: p.graph.node[0].input.extend("xxx"), "inputs: expected 2 to 3, got 6"),
    "data outside": (outside, "a file beside it"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_or_damaged_file_is_refused_before_anything_runs(name: str) -> None:
    edit, words = REFUSED[name]
    with pytest.raises(CheckpointError, match=words):
        gpucnn.onnx.load(edited(edit))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\x00" * 100, b"{}" * 50, b"\x08" * 1000):
        with pytest.raises(CheckpointError, match="ONNX: not an ONNX model"):
            gpucnn.onnx.load(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        gpucnn.onnx.load(tmp_path)


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (("Tile", ["x", "r"], {}), {"r": np.array([1, 2**20, 2**20, 1])}),
        (("Expand", ["x", "r"], {}), {"r": np.array([2**40, 1, 3, 8, 8])}),
        (("Pad", ["x", "r"], {}), {"r": np.array([0, 0, 2**31, 0, 0, 0, 0, 0])}),
        (("Resize", ["x", "", "r"], {}), {"r": np.array([1, 1, 2.0**18, 2.0**18], np.float32)}),
        (("Conv", ["x", "r"], {"pads": [2**19] * 4}), {"r": np.zeros((1, 3, 1, 1), np.float32)}),
        (("ConvTranspose", ["x", "r"], {"strides": [2**19] * 2}), {"r": np.zeros((3, 1, 1, 1), np.float32)}),
        (("Add", ["x", "r"], {}), {"r": np.zeros((2**23, 1, 1, 1), np.float32)}),
    ],
)  # fmt: skip
def test_a_result_beyond_the_bound_is_refused_before_memory_is_taken(node: Any, constants: dict[str, Any]) -> None:
    kind, inputs, options = node
    nodes = [helper.make_node(kind, inputs, ["y"], **options)]
    net = gpucnn.onnx.load(model(nodes, {"x": [1, 3, 8, 8]}, ["y"], constants).SerializeToString())
    with pytest.raises((ShapeError, ParameterError), match=r"expected at most|expected ints from 0"):
        net(images(1))


def test_a_network_of_a_file_is_saved_by_exporting_it(tmp_path: Path) -> None:
    from gpucnn import models

    net = gpucnn.onnx.load(small().SerializeToString())
    with pytest.raises(ParameterError, match=r"expected a layer of gpucnn.nn"):
        models.save(net, tmp_path / "net.safetensors")
