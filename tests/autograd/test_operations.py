"""A tensor's own arithmetic: values as NumPy's, gradients as finite differences, dtypes as PyTorch's."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracles import LAYOUTS, Host, assert_close, check_gradients, lay_out

import gpucnn
from gpucnn import Tensor
from gpucnn.autograd import concatenate, operations
from gpucnn.backend import Backend
from gpucnn.errors import GpucnnError

RNG = np.random.default_rng(9)


def normal(*shape: int) -> Host:
    return RNG.standard_normal(shape)


def positive(*shape: int) -> Host:
    return RNG.random(shape) + 0.5


def apart(*shape: int) -> Host:
    n = int(np.prod(shape))
    return (RNG.permutation(n) - n / 2 + 0.25).reshape(shape) / 3


BROADCASTS = [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 4), (3, 1)), ((), (2, 3)), ((1,), (2, 2)), ((2, 0), (1,))]
UNARY: dict[str, tuple[Callable[..., Tensor], Host]] = {
    "neg": (operator.neg, normal(3, 2)),
    "abs": (operator.abs, apart(3, 2)),
    "abs, the method": (lambda x: x.abs(), apart(3, 2)),
    "exp": (lambda x: x.exp(), normal(3, 2)),
    "log": (lambda x: x.log(), positive(3, 2)),
    "sqrt": (lambda x: x.sqrt(), positive(3, 2)),
    "square": (lambda x: x**2, normal(3, 2)),
    "pow of a number": (lambda x: 2.0**x, normal(3, 2)),
    "pow 0": (lambda x: x**0, normal(3, 2)),
    "number - x": (lambda x: 3 - x, normal(3)),
    "number / x": (lambda x: 3 / x, positive(3)),
    "reshape": (lambda x: x.reshape(4, -1), normal(2, 3, 2)),
    "flatten": (lambda x: x.flatten(1), normal(2, 3, 2)),
    "transpose": (lambda x: x.transpose(1, 2, 0), normal(2, 3, 2)),
    "T": (lambda x: x.T, normal(2, 3)),
    "clip": (lambda x: x.clamp(-0.5, 0.6), apart(3, 2)),
    "clip, one side": (lambda x: x.clamp(max=0.6), apart(3, 2)),
    "where": (lambda x: gpucnn.where(x > 0, x * 2, x.sum(0)), apart(3, 2)),
    "broadcast": (lambda x: x.expand(4, -1, 3), normal(2, 1)),
    "repeat": (lambda x: x.repeat(2, 1, 3), normal(2, 2)),
    "take_along": (lambda x: x.sort(0).values * x, apart(3, 2)),
    "take_along, some": (lambda x: x.topk(2, -1).values, apart(3, 4)),
    "var": (lambda x: x.var(1), normal(2, 3)),
    "std": (lambda x: x.std((0, 1), correction=0), normal(2, 3)),
    "clone": (lambda x: x.clone(), normal(2)),
    "to_dtype": (lambda x: x.to("float32").to("float64") * 0 + x.to("float64"), normal(2)),
    "index": (lambda x: x[1], normal(3, 2)),
    "index, slices": (lambda x: x[::-2, None, 1:], normal(4, 3)),
    "index, ellipsis": (lambda x: x[..., 0], normal(2, 2, 2)),
    "index, one element": (lambda x: x[1, 0], normal(2, 2)),
    "index, list": (lambda x: x[[0, 2, 0]], normal(3, 2)),
    "index, list in a tuple": (lambda x: x[1:, [1, 1, 0]], normal(3, 2)),
    "index, tuple in a tuple": (lambda x: x[1:, (1, 1, 0)], normal(3, 2)),
    "index, host array": (lambda x: x[np.array([0, 2, 0])], normal(3, 2)),
    "index, tensor": (lambda x: x[gpucnn.tensor([2, 2, 1])], normal(3, 2)),
    "index, mask": (lambda x: x[x > 0], apart(3, 2)),
    "sum": (lambda x: x.sum(), normal(2, 3)),
    "sum over an axis": (lambda x: x.sum(0), normal(2, 3)),
    "sum over axes": (lambda x: x.sum((0, -1), keepdims=True), normal(2, 3, 2)),
    "mean": (lambda x: x.mean(1), normal(2, 3)),
    "mean of all": (lambda x: x.mean(), normal(2, 3)),
    "maximum": (lambda x: x.max(1), apart(3, 4)),
    "maximum over axes": (lambda x: x.max((0, 2), keepdims=True), apart(3, 2, 2)),
    "minimum": (lambda x: x.min(), apart(3, 4)),
}
BINARY: dict[str, tuple[Callable[..., Tensor], Callable[..., Host]]] = {
    "add": (operator.add, normal),
    "sub": (operator.sub, normal),
    "mul": (operator.mul, normal),
    "div": (operator.truediv, positive),
    "pow": (operator.pow, positive),
}
PRODUCTS = [
    ((3, 4), (4, 2)), ((4,), (4,)), ((4,), (4, 2)), ((3, 4), (4,)), ((2, 3, 4), (4, 2)), ((2, 3, 4), (2, 4, 2)),
    ((2, 1, 3, 4), (5, 4, 2)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((0, 3), (3, 2)), ((2, 0), (0, 3)),
]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_gradient_of_one_operand(backend: Backend, name: str) -> None:
    function, x = UNARY[name]
    check_gradients(function, backend, x)


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_gradient_of_two_operands_undoes_broadcasting(
    backend: Backend, name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    function, draw = BINARY[name]
    a, b = (np.asarray(draw(*shape)) for shape in shapes)
    check_gradients(function, backend, a, b)
    check_gradients(lambda x, y: function(y, x), backend, a, b)


@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_matrix_products_of_every_number_of_axes(
    backend: Backend, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    a, b = (normal(*shape) for shape in shapes)
    assert_close((gpucnn.tensor(a) @ gpucnn.tensor(b)).numpy(), np.asarray(a @ b))
    check_gradients(operator.matmul, backend, a, b)


@pytest.mark.parametrize("a_layout", LAYOUTS)
@pytest.mark.parametrize("b_layout", LAYOUTS)
def test_matrix_products_in_every_layout(backend: Backend, a_layout: str, b_layout: str) -> None:
    a, b = normal(5, 7), normal(7, 3)
    assert_close(lay_out(a, a_layout, backend) @ lay_out(b, b_layout, backend), a @ b)


def test_every_operation_has_its_gradient_checked() -> None:
    tested = {name.split()[0].rstrip(",") for name in (*UNARY, *BINARY)} | {"matmul", "to_device", "concatenation"}
    public = {
        name
        for name, value in vars(operations).items()
        if callable(value) and getattr(value, "__module__", "") == operations.__name__ and not name.startswith("_")
    }
    assert public - tested == {"argmax", "comparison", "order", "unbroadcast"}  # which need none


def test_gradients_flow_between_devices(standin: Backend) -> None:
    check_gradients(lambda x: (x.to("cuda") * 2 + x.cuda() ** 2).cpu(), gpucnn.get_backend("cpu"), normal(3))
    check_gradients(lambda x: (x.cpu() * 2).cuda(), standin, normal(3))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gradient_of_concatenation(backend: Backend, axis: int) -> None:
    shapes = [[2, 3, 2], [2, 3, 2], [2, 3, 2]]
    for i, length in enumerate((1, 0, 4)):
        shapes[i][axis] = length
    arrays = [normal(*shape) for shape in shapes]
    joined = concatenate([gpucnn.tensor(a) for a in arrays], axis)
    assert np.array_equal(joined.numpy(), np.concatenate(arrays, axis))
    check_gradients(lambda *parts: concatenate(parts, axis), backend, *arrays)


def test_equal_extrema_share_the_gradient(backend: Backend) -> None:
    x = gpucnn.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], requires_grad=True)
    x.max(1).sum().backward()
    assert x.grad is not None
    assert np.allclose(x.grad.numpy(), [[0, 0.5, 0.5], [1 / 3] * 3])


@pytest.mark.parametrize("symbol", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparison_is_numpys_and_needs_no_gradient(backend: Backend, symbol: str) -> None:
    function, a, b = getattr(operator, symbol), np.array([1.0, 2, 3]), np.array([3.0, 2, 1])
    result = function(gpucnn.tensor(a, requires_grad=True), gpucnn.tensor(b))
    assert result.dtype == bool
    assert not result.requires_grad
    assert np.array_equal(result.numpy(), function(a, b))
    assert np.array_equal(function(gpucnn.tensor(a), 2).numpy(), function(a, 2))


@pytest.mark.parametrize("symbol", ["add", "sub", "mul", "truediv", "pow"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_python_numbers_and_integer_tensors_take_the_floating_dtype(backend: Backend, symbol: str, dtype: str) -> None:
    function = getattr(operator, symbol)
    x = gpucnn.tensor(np.array([1.5, 2.0], dtype), requires_grad=True)
    for other in (2, 0.5, True, gpucnn.tensor([1, 2]), gpucnn.tensor([True, True])):
        for y in (function(x, other), function(other, x)):
            assert y.dtype == dtype
            y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("function", [lambda x: x / x, lambda x: x.sqrt(), lambda x: x.exp(), lambda x: x.log()])
def test_real_functions_of_integers_are_float32(backend: Backend, function: Callable[..., Tensor]) -> None:
    y = function(gpucnn.tensor([1, 4]))
    assert y.dtype == "float32"
    assert np.allclose(y.numpy(), function(gpucnn.tensor([1.0, 4.0])).numpy())


def test_a_product_of_integers_and_floats_is_floating(backend: Backend) -> None:
    assert (gpucnn.tensor([[1.0, 2.0]]) @ gpucnn.tensor([[1], [2]])).dtype == "float32"
    assert (gpucnn.tensor([1, 2]) @ gpucnn.tensor([1, 2])).item() == 5


def test_a_number_beside_truth_values_stays_a_number(backend: Backend) -> None:
    x = gpucnn.tensor([True, False])
    assert (x + 2).tolist() == [3, 2]
    assert (x * 0.5).tolist() == [0.5, 0]
    assert (x == 2).tolist() == [False, False]


def test_results_without_dimensions_are_arrays_that_can_be_changed(backend: Backend) -> None:
    for y in (gpucnn.tensor(1.0) + 1, gpucnn.tensor([2.0, 5.0])[0], gpucnn.tensor(2.0) ** 1, -gpucnn.tensor(-2.0)):
        assert backend.owns(y.array)
        y += 1
        y[...] = y * 2
        assert y.item() == 6


def test_an_element_is_a_view_as_every_slice_is(backend: Backend) -> None:
    x = gpucnn.tensor([1.0, 2.0])
    element = x[0]
    element += 5
    assert x.tolist() == [6, 2]


@pytest.mark.parametrize("function", [lambda x: x.mean(), lambda x: x.mean(0)])
def test_the_mean_of_nothing_is_nan(backend: Backend, function: Callable[..., Tensor]) -> None:
    x = gpucnn.tensor(np.zeros((0, 2)), requires_grad=True)
    y = function(x)
    assert np.isnan(y.numpy()).all()
    y.sum().backward()


def test_shared_subexpressions_are_walked_once(backend: Backend) -> None:
    x = gpucnn.tensor([3.0], dtype="float64", requires_grad=True)
    y = x * x
    for _ in range(30):  # a walk along every path would take 2**30 steps
        y = y * 0.5 + y * 0.5
    (y + x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [7]
    check_gradients(lambda a: (a * a + a) * (a * a) + a.exp() * a, backend, normal(3))


def test_argmax_is_the_first_maximum(backend: Backend) -> None:
    x = gpucnn.tensor([[1.0, 3.0, 3.0], [9.0, 2.0, 9.0]])
    assert x.argmax(1).tolist() == [1, 0]
    assert x.argmax().item() == 3


MISTAKES: dict[str, Callable[[Tensor], Any]] = {
    "shapes that do not broadcast": lambda x: x + gpucnn.tensor([1.0] * 5),
    "shapes that do not multiply": lambda x: x @ x,
    "product with a number": lambda x: x @ 2,
    "shapes that do not compare": lambda x: x == gpucnn.tensor([1.0] * 5),
    "a list": lambda x: x - [1.0],
    "None": lambda x: x * None,
    "text": lambda x: x > "a",
    "a NumPy array": lambda x: x + np.ones(3),
    "a NumPy array in front": lambda x: np.ones(3) * x,
    "two floating dtypes": lambda x: x + gpucnn.tensor(np.ones(3)),
    "a number too large for the dtype": lambda x: gpucnn.tensor([1], dtype="uint8") + 300,
    "integer to a negative power": lambda x: gpucnn.tensor([2]) ** -1,
    "minus a truth value": lambda x: -gpucnn.tensor([True]),
    "difference of truth values": lambda x: gpucnn.tensor([True]) - gpucnn.tensor([True]),
    "an axis too far": lambda x: x.sum(2),
    "an axis twice": lambda x: x.sum((0, 0)),
    "an axis twice, once from behind": lambda x: x.mean((0, -2)),
    "a floating axis": lambda x: x.sum(1.0),
    "text as axis": lambda x: x.max("rows"),
    "axes of argmax": lambda x: x.argmax((0, 1)),
    "the mean of integers": lambda x: gpucnn.tensor([1]).mean(),
    "the maximum of nothing": lambda x: gpucnn.tensor(np.zeros((0, 2))).max(0),
    "an index too far": lambda x: x[7],
    "too many indices": lambda x: x[0, 0, 0],
    "a floating index": lambda x: x[1.5],
    "text as index": lambda x: x["a"],
    "texts as index": lambda x: x[["a"]],
    "a floating tensor as index": lambda x: x[x],
    "a mask of another shape": lambda x: x[gpucnn.tensor([True, False, True, True])],
    "reshape to another size": lambda x: x.reshape(4, 2),
    "reshape with two unknowns": lambda x: x.reshape(-1, -1),
    "reshape to a float": lambda x: x.reshape(6.0),
    "reshape to floats": lambda x: x.reshape(2.0, 3),
    "reshape to text": lambda x: x.reshape("6"),
    "reshape to None": lambda x: x.reshape(None),
    "flatten backwards": lambda x: x.flatten(1, 0),
    "flatten from text": lambda x: x.flatten("a"),
    "transpose with one axis": lambda x: x.transpose(0),
    "transpose with text": lambda x: x.transpose("a", "b"),
    "transpose with a tuple": lambda x: x.transpose((1.0, 0)),
    "parts of several dtypes": lambda x: concatenate([x, x.to("float64")]),
    "parts of several shapes": lambda x: concatenate([x, x[:, :2]]),
    "parts of several numbers of axes": lambda x: concatenate([x, x[:, 0]], 1),
    "parts without axes": lambda x: concatenate([x.sum(), x.sum()]),
    "one part, not in a list": lambda x: concatenate(x),
    "no part": lambda x: concatenate([]),
    "a number as parts": lambda x: concatenate(5),
    "a part that is no tensor": lambda x: concatenate([x, [1.0]]),
    "parts along a floating axis": lambda x: concatenate([x, x], 1.0),
    "item of many": lambda x: x.item(),
    "truth of many": lambda x: bool(x),
    "an integer from a float": lambda x: [1, 2][x.sum()],
    "length of none": lambda x: len(x.sum()),
    "a NumPy array, silently": lambda x: np.asarray(x),
    "to None": lambda x: x.to(None),
    "to text": lambda x: x.to("banana"),
    "to a type of text": lambda x: x.to(str),
    "to complex numbers": lambda x: x.to("complex64"),
    "to a GPU of another name": lambda x: x.to("cuda:x"),
    "to a number": lambda x: x.to(3.5),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(backend: Backend, name: str) -> None:
    x = gpucnn.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    with pytest.raises(GpucnnError) as caught:
        MISTAKES[name](x)
    assert len(str(caught.value)) > 20
    assert x.tolist() == [[1, 2, 3], [4, 5, 6]]
