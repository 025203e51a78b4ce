"""What a user gets wrong is named: where, what was expected, what came. Never a traceback from inside NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn.backend import Backend
from gpucnn.errors import DTypeError, GpucnnError, ParameterError, ShapeError


class Given:
    """Arguments that fit together, made on the backend under test."""

    def __init__(self) -> None:
        self.x = gpucnn.tensor(np.ones((2, 4, 6, 6), np.float32))
        self.w = gpucnn.tensor(np.ones((6, 4, 3, 3), np.float32))
        self.b = gpucnn.tensor(np.ones(6, np.float32))
        self.rows = gpucnn.tensor(np.ones((3, 4), np.float32))
        self.lw = gpucnn.tensor(np.ones((2, 4), np.float32))
        self.labels = gpucnn.tensor([0, 1, 3])

    def double(self, tensor: gpucnn.Tensor) -> gpucnn.Tensor:
        return tensor.to("float64")


Case = tuple[Callable[[Given], Any], type[GpucnnError], str]
MISTAKES: dict[str, Case] = {
    "conv2d: input of 2 axes": (
        lambda g: F.conv2d(g.rows, g.w), ShapeError, r"conv2d: input: expected 4 channels .*got 1 \(input \(1, 1, 3, 4\)"),
    "conv2d: input of 1 axis": (
        lambda g: F.conv2d(g.rows[0], g.w), ShapeError, r"conv2d: input: .*\(N, C, H, W\).*\(4,\)"),
    "conv2d: input of 5 axes": (lambda g: F.conv2d(g.x.reshape(1, 2, 4, 6, 6), g.w), ShapeError, "conv2d: input"),
    "conv2d: channels": (
        lambda g: F.conv2d(g.x[:, :3], g.w), ShapeError, r"input: expected 4 channels .*got 3 \(input \(2, 3, 6, 6\)"),
    "conv2d: channels last": (
        lambda g: F.conv2d(g.x.transpose(0, 2, 3, 1), g.w), ShapeError, r"Put channels second: \(N, C, H, W\)"),
    "conv2d: weight of 2 axes": (
        lambda g: F.conv2d(g.x, g.lw), ShapeError, r"conv2d: weight: .*\(F, C/groups, KH, KW\)"),
    "conv2d: kernel of no rows": (lambda g: F.conv2d(g.x, g.w[:, :, :0]), GpucnnError, "conv2d: .*kernel"),
    "conv2d: bias": (
        lambda g: F.conv2d(g.x, g.w, g.b[:2]), ShapeError, r"conv2d: bias: expected shape \(6,\), got \(2,\)"),
    "conv2d: too small an image": (
        lambda g: F.conv2d(g.x[:, :, :2], g.w), ShapeError, r"conv2d: image: expected at least 3x3 pixels.*got 2x6"),
    "conv2d: too much dilation": (
        lambda g: F.conv2d(g.x, g.w, dilation=3), ShapeError, "conv2d: image: .*7x7.*dilation"),
    "conv2d: groups that do not divide": (
        lambda g: F.conv2d(g.x, g.w, groups=4), ParameterError, "conv2d: groups: .*got 4"),
    "conv2d: groups 0": (lambda g: F.conv2d(g.x, g.w, groups=0), ParameterError, "conv2d: groups"),
    "conv2d: groups True": (lambda g: F.conv2d(g.x, g.w, groups=True), ParameterError, "conv2d: groups"),
    "conv2d: groups None": (lambda g: F.conv2d(g.x, g.w, groups=None), ParameterError, "conv2d: groups"),
    "conv2d: stride 0": (lambda g: F.conv2d(g.x, g.w, stride=0), ParameterError, "conv2d: stride: .*got 0"),
    "conv2d: stride of floats": (lambda g: F.conv2d(g.x, g.w, stride=1.5), ParameterError, "conv2d: stride: .*got 1.5"),
    "conv2d: stride of three": (lambda g: F.conv2d(g.x, g.w, stride=(1, 1, 1)), ParameterError, "conv2d: stride"),
    "conv2d: stride as text": (lambda g: F.conv2d(g.x, g.w, stride="12"), ParameterError, "conv2d: stride"),
    "conv2d: stride as bytes": (lambda g: F.conv2d(g.x, g.w, stride=b"ab"), ParameterError, "conv2d: stride"),
    "conv2d: stride True": (lambda g: F.conv2d(g.x, g.w, stride=True), ParameterError, "conv2d: stride"),
    "conv2d: stride None": (lambda g: F.conv2d(g.x, g.w, stride=None), ParameterError, "conv2d: stride"),
    "conv2d: dilation 0": (lambda g: F.conv2d(g.x, g.w, dilation=(1, 0)), ParameterError, "conv2d: dilation"),
    "conv2d: padding below 0": (lambda g: F.conv2d(g.x, g.w, padding=-1), ParameterError, "conv2d: padding"),
    "conv2d: padding of three": (lambda g: F.conv2d(g.x, g.w, padding=(1, 1, 1)), ParameterError, "conv2d: padding"),
    "conv2d: padding with a float": (
        lambda g: F.conv2d(g.x, g.w, padding=(1, 1, 1, 1.0)), ParameterError, "four sides"),
    "conv2d: padding by a wrong name": (
        lambda g: F.conv2d(g.x, g.w, padding="sane"), ParameterError, "'valid', 'same', 'full'.*'sane'"),
    "conv2d: implementation": (
        lambda g: F.conv2d(g.x, g.w, implementation="fft"), ParameterError, "'auto', 'im2col' or 'loops', got 'fft'"),
    "conv2d: padding None": (lambda g: F.conv2d(g.x, g.w, padding=None), ParameterError, "conv2d: padding"),
    "conv2d: integers": (
        lambda g: F.conv2d(g.x.to("int64"), g.w), DTypeError, "conv2d: input: expected a floating dtype"),
    "conv2d: float64 images": (
        lambda g: F.conv2d(g.double(g.x), g.w), DTypeError, "conv2d: weight: .*float64, got float32.*float32"),
    "conv2d: float64 bias": (lambda g: F.conv2d(g.x, g.w, g.double(g.b)), DTypeError, "conv2d: bias"),
    "conv2d: a list": (lambda g: F.conv2d([[1.0]], g.w), DTypeError, "conv2d: input: expected a Tensor, got list"),
    "conv2d: a host array": (lambda g: F.conv2d(np.ones((1, 4, 6, 6)), g.w), DTypeError, "conv2d: input: .*ndarray"),
    "conv2d: a list as weight": (lambda g: F.conv2d(g.x, [1.0]), DTypeError, "conv2d: weight: expected a Tensor"),
    "conv2d: a number as bias": (lambda g: F.conv2d(g.x, g.w, 0.5), DTypeError, "conv2d: bias: expected a Tensor"),
    "im2col: kernel": (lambda g: F.im2col(g.x, 0), ParameterError, "im2col: kernel_size"),
    "im2col: a list": (lambda g: F.im2col([1.0], 2), DTypeError, "im2col: .*expected a Tensor"),
    "im2col: no window": (lambda g: F.im2col(g.x, 7), ShapeError, "im2col: image: .*7x7"),
    "col2im: shape of columns": (
        lambda g: F.col2im(g.rows, (1, 1, 3, 3), 2), ShapeError, r"col2im: cols: expected \(4, 4\).*got \(3, 4\)"),
    "col2im: an image shape of 3": (lambda g: F.col2im(g.rows, (1, 3, 3), 2), GpucnnError, "col2im: input_shape"),
    "col2im: a number as image shape": (lambda g: F.col2im(g.rows, 5, 2), GpucnnError, "col2im: input_shape"),
    "col2im: a list": (lambda g: F.col2im([1.0], (1, 1, 3, 3), 2), DTypeError, "col2im: .*expected a Tensor"),
    "max_pool2d: kernel": (lambda g: F.max_pool2d(g.x, (2, 0)), ParameterError, "max_pool2d: kernel_size"),
    "max_pool2d: kernel None": (lambda g: F.max_pool2d(g.x, None), ParameterError, "max_pool2d: kernel_size"),
    "max_pool2d: stride": (lambda g: F.max_pool2d(g.x, 2, 0.5), ParameterError, "max_pool2d: stride"),
    "max_pool2d: padding as large as the window": (
        lambda g: F.max_pool2d(g.x, 3, padding=3), ParameterError, "less than the window 3x3"),
    "max_pool2d: integers": (lambda g: F.max_pool2d(g.x.to("uint8"), 2), DTypeError, "max_pool2d: input: .*uint8"),
    "max_pool2d: too small": (lambda g: F.max_pool2d(g.x, 7), ShapeError, "max_pool2d: image"),
    "max_pool2d: a list": (lambda g: F.max_pool2d([[1.0]], 2), DTypeError, "max_pool2d: input: expected a Tensor"),
    "avg_pool2d: divisor 0": (lambda g: F.avg_pool2d(g.x, 2, divisor_override=0), ParameterError, "divisor_override"),
    "avg_pool2d: divisor True": (
        lambda g: F.avg_pool2d(g.x, 2, divisor_override=True), ParameterError, "divisor_override"),
    "avg_pool2d: no image": (lambda g: F.avg_pool2d(g.rows[0], 2), ShapeError, "avg_pool2d: input"),
    "linear: features": (
        lambda g: F.linear(g.rows[:, :3], g.lw), ShapeError, r"linear: input: expected 4 features.*\(3, 3\)"),
    "linear: images": (lambda g: F.linear(g.x, g.lw), ShapeError, "Flatten images first"),
    "linear: a number": (lambda g: F.linear(g.rows.sum(), g.lw), ShapeError, "linear: input"),
    "linear: weight": (lambda g: F.linear(g.rows, g.w), ShapeError, r"linear: weight: .*\(out_features, in_features\)"),
    "linear: bias": (lambda g: F.linear(g.rows, g.lw, g.b), ShapeError, r"linear: bias: expected shape \(2,\)"),
    "linear: float64": (lambda g: F.linear(g.double(g.rows), g.lw), DTypeError, "linear: weight"),
    "linear: integers": (lambda g: F.linear(g.rows.to("int32"), g.lw), DTypeError, "linear: input"),
    "linear: a list": (lambda g: F.linear([1.0], g.lw), DTypeError, "linear: input: expected a Tensor"),
    "linear: a host weight": (
        lambda g: F.linear(g.rows, np.ones((2, 4), np.float32)), DTypeError, "linear: weight: .*ndarray"),
    "relu: a list": (lambda g: F.relu([1.0]), DTypeError, "relu: input: expected a Tensor, got list"),
    "relu: integers": (lambda g: F.relu(g.labels), DTypeError, "relu: input: expected a floating dtype, got int64"),
    "sigmoid: None": (lambda g: F.sigmoid(None), DTypeError, "sigmoid: input: expected a Tensor, got NoneType"),
    "tanh: truth values": (lambda g: F.tanh(g.rows > 0), DTypeError, "tanh: input"),
    "softmax: axis": (lambda g: F.softmax(g.rows, 2), ShapeError, r"softmax: axis: .*\(3, 4\), got 2"),
    "softmax: axis as text": (lambda g: F.softmax(g.rows, "rows"), GpucnnError, "softmax: axis"),
    "softmax: axis None": (lambda g: F.softmax(g.rows, None), GpucnnError, "softmax: axis"),
    "softmax: floating axis": (lambda g: F.softmax(g.rows, 1.0), GpucnnError, "softmax: axis"),
    "log_softmax: no such axis": (lambda g: F.log_softmax(g.rows, dim=2), ShapeError, "log_softmax: axis"),
    "log_softmax: axis and dim": (lambda g: F.log_softmax(g.rows, 0, dim=1), ParameterError, "one of axis and dim"),
    "dropout: p above 1": (lambda g: F.dropout(g.x, 1.5), ParameterError, "dropout: p: .*from 0 to 1, got 1.5"),
    "dropout: p as text": (lambda g: F.dropout(g.x, "half"), ParameterError, "dropout: p"),
    "dropout: p None": (lambda g: F.dropout(g.x, None), ParameterError, "dropout: p"),
    "dropout: p not a number": (lambda g: F.dropout(g.x, float("nan")), ParameterError, "dropout: p"),
    "dropout: a seed as generator": (lambda g: F.dropout(g.x, 0.5, generator=7), ParameterError, "dropout: generator"),
    "dropout: a list": (lambda g: F.dropout([1.0]), DTypeError, "dropout: input: expected a Tensor"),
    "cross_entropy: targets of another number": (
        lambda g: F.cross_entropy(g.rows, g.labels[:2]), ShapeError, r"target: expected shape \(3,\).*got \(2,\)"),
    "cross_entropy: targets in a column": (
        lambda g: F.cross_entropy(g.rows, g.labels.reshape(3, 1)), ShapeError, "target"),
    "cross_entropy: floating targets": (
        lambda g: F.cross_entropy(g.rows, g.labels.to("float32")), ShapeError, "target"),
    "cross_entropy: float64 weights": (
        lambda g: F.cross_entropy(g.rows, g.double(g.rows)), DTypeError, "cross_entropy: target"),
    "cross_entropy: a list": (
        lambda g: F.cross_entropy(g.rows, [0, 1, 2]), DTypeError, "cross_entropy: target: expected a Tensor, got list"),
    "cross_entropy: a host array": (
        lambda g: F.cross_entropy(g.rows, np.array([0, 1, 2])), DTypeError, "target: .*ndarray"),
    "cross_entropy: a list as logits": (
        lambda g: F.cross_entropy([[1.0]], g.labels), DTypeError, "cross_entropy: input"),
    "cross_entropy: one row": (
        lambda g: F.cross_entropy(g.rows[0], g.labels[:1]), ShapeError, r"target: expected integers of shape \(\)"),
    "cross_entropy: no class": (lambda g: F.cross_entropy(g.rows[:, :0], g.labels), ShapeError, "at least one class"),
    "cross_entropy: reduction": (
        lambda g: F.cross_entropy(g.rows, g.labels, "max"), ParameterError, "'mean', 'sum' or 'none', got 'max'"),
    "cross_entropy: reduction None": (lambda g: F.cross_entropy(g.rows, g.labels, None), ParameterError, "reduction"),
    "cross_entropy: integers": (
        lambda g: F.cross_entropy(g.rows.to("int64"), g.labels), DTypeError, "cross_entropy: input"),
    "mse_loss: shapes": (lambda g: F.mse_loss(g.rows, g.rows[:, :1]), ShapeError, "mse_loss: target"),
    "mse_loss: dtypes": (lambda g: F.mse_loss(g.rows, g.double(g.rows)), DTypeError, "mse_loss: target"),
    "mse_loss: a number": (
        lambda g: F.mse_loss(g.rows, 1.0), DTypeError, "mse_loss: target: expected a Tensor, got float"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(backend: Backend, name: str) -> None:
    attempt, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        attempt(Given())


OPTIONS: list[dict[str, Any]] = [{}, {"label_smoothing": 0.1}, {"ignore_index": 7}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("label", [4, -1, -5, 100])
def test_a_label_beyond_the_classes_is_named_on_the_cpu(label: int, options: Any) -> None:
    with pytest.raises(ParameterError, match="cross_entropy: target: expected labels from 0 to 3"):
        F.cross_entropy(gpucnn.tensor(np.ones((2, 4))), gpucnn.tensor([0, label]), **options)
    with pytest.raises(ParameterError, match="nll_loss: target: expected labels from 0 to 3"):
        F.nll_loss(gpucnn.tensor(np.ones((2, 4))), gpucnn.tensor([0, label]))


@pytest.mark.parametrize("backend", ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
@pytest.mark.parametrize("label", [4, -1, -5, 100])
def test_a_label_beyond_the_classes_is_nan_on_a_gpu(backend: Backend, label: int) -> None:
    input = gpucnn.tensor(np.ones((2, 4), np.float32), requires_grad=True)
    loss = F.cross_entropy(input, gpucnn.tensor([0, label]))
    loss.backward()
    assert np.isnan(loss.item())
    assert input.grad is not None
    assert np.isnan(input.grad.numpy()).all(1).tolist() == [False, True]


@pytest.mark.cuda  # the stand-in refuses the index with which CuPy finds the weight of such a label
@pytest.mark.parametrize("backend", ["cuda"], indirect=True)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_label_beyond_the_classes_is_nan_on_a_gpu_with_options_too(backend: Backend, options: Any) -> None:
    loss = F.cross_entropy(gpucnn.tensor(np.ones((2, 4), np.float32)), gpucnn.tensor([0, 4]), **options)
    assert np.isnan(loss.item())


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("abc", {}),
        (None, {}),
        ([[1.0], [2.0, 3.0]], {}),
        ([1j], {}),
        ([None, 1.0], {}),
        ({"a": 1}, {}),
        ([300], {"dtype": "uint8"}),
        ([1.0], {"dtype": "banana"}),
        ([1.0], {"dtype": "complex64"}),
        (["a"], {"dtype": "float32"}),
        ([1], {"requires_grad": True}),
        (np.array(["a"]), {}),
        (np.array([{}]), {}),
    ],
    ids=repr,
)
def test_what_is_no_number_makes_no_tensor(backend: Backend, data: Any, options: dict[str, Any]) -> None:
    with pytest.raises(DTypeError):
        gpucnn.tensor(data, **options)


def test_dtypes_of_new_tensors(backend: Backend) -> None:
    for data, dtype in (
        (1, "int64"), (1.0, "float32"), (True, "bool"), ([1, 2.5], "float32"), ([[]], "float32"),
        (np.ones(2), "float64"), (np.ones(2, np.float16), "float16"), (np.uint8(3), "uint8"), ([np.float64(1)], "float32"),
    ):  # fmt: skip
        assert gpucnn.tensor(data).dtype == dtype
    assert gpucnn.tensor([1, 2], dtype="float64").dtype == "float64"
    assert gpucnn.tensor(gpucnn.tensor(np.ones(2))).dtype == "float64"


@pytest.mark.parametrize("options", [*OPTIONS, {"weight": gpucnn.tensor(np.ones(4, np.float32), device="cpu")}])
@pytest.mark.parametrize("label", [4, 2**63, 2**64 - 1])
def test_an_unsigned_label_does_not_wrap_into_the_last_class(label: int, options: Any) -> None:
    x, labels = gpucnn.tensor(np.ones((2, 4), np.float32)), gpucnn.tensor(np.array([1, label], np.uint64))
    with pytest.raises(ParameterError, match="cross_entropy: target: expected labels from 0 to 3"):
        F.cross_entropy(x, labels, **options)
    with pytest.raises(ParameterError, match="nll_loss: target: expected labels from 0 to 3"):
        F.nll_loss(x, labels)


def test_an_unsigned_label_beyond_the_classes_is_nan_on_a_gpu(standin: Backend) -> None:
    x, labels = (gpucnn.tensor(a, device=standin) for a in (np.ones((2, 4), np.float32), np.uint64([1, 2**64 - 1])))
    assert np.isnan(F.cross_entropy(x, labels).item())


def test_unsigned_labels_are_labels(backend: Backend) -> None:
    x = gpucnn.tensor(np.arange(8, dtype=np.float32).reshape(2, 4))
    signed, unsigned = (gpucnn.tensor(np.array([1, 3], kind)) for kind in (np.int64, np.uint64))
    assert F.cross_entropy(x, unsigned).item() == F.cross_entropy(x, signed).item()
