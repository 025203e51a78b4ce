"""Changes in place: refused where they would make a gradient wrong, or noticed when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, nn, no_grad, optim
from gpucnn.backend import Backend
from gpucnn.errors import DTypeError, GpucnnError, GraphError, ShapeError


def set_item(x: Tensor) -> None:
    x[0] = 9.0


def add(x: Tensor) -> None:
    x += 1


def subtract(x: Tensor) -> None:
    x -= 1


def multiply(x: Tensor) -> None:
    x *= 2


def divide(x: Tensor) -> None:
    x /= 2


def copy(x: Tensor) -> None:
    x.copy_(gpucnn.tensor(np.full(x.shape, 9.0, np.float32)))


CHANGES: list[Callable[[Tensor], None]] = [set_item, add, subtract, multiply, divide, copy]
ROUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x,
    "detach": lambda x: x.detach(),
    "slice": lambda x: x[1:],
    "strided slice": lambda x: x[::2],
    "element": lambda x: x[2].reshape(1),
    "reshape": lambda x: x.reshape(2, 2),
    "flatten": lambda x: x.reshape(2, 2).flatten(),
    "transpose": lambda x: x.reshape(2, 2).T,
    "view of a view": lambda x: x.detach()[1:][1:],
    "to the same device": lambda x: x.to(x.device),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_leaf_with_gradient_is_not_changed_in_place(backend: Backend, change: Callable[[Tensor], None]) -> None:
    x = gpucnn.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    for tensor in (x, x * 1, x[1:]):
        before = tensor.tolist()
        with pytest.raises(GraphError, match=r"cannot be changed in place.*no_grad"):
            change(tensor)
        assert tensor.tolist() == before


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_forward_and_backward_is_noticed(
    backend: Backend, change: Callable[[Tensor], None], route: str
) -> None:
    x = gpucnn.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    y = (x * x).sum()
    with no_grad():
        change(ROUTES[route](x))
    with pytest.raises(GraphError, match=r"a tensor that mul used was changed in place"):
        y.backward()
    assert x.grad is None


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_an_operand_without_gradient_is_noticed(backend: Backend, change: Callable[[Tensor], None]) -> None:
    x, factor = gpucnn.tensor([1.0, 2.0], requires_grad=True), gpucnn.tensor([3.0, 4.0])
    y = (x * factor).sum()
    change(factor)
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


@pytest.mark.parametrize("function", [lambda x: x.exp(), lambda x: x.sqrt(), lambda x: gpucnn.functional.relu(x)])
def test_a_change_of_a_result_that_backward_needs_is_noticed(
    backend: Backend, function: Callable[[Tensor], Tensor]
) -> None:
    x = gpucnn.tensor([1.0, 2.0], requires_grad=True)
    y = function(x)
    total = y.sum()
    y.detach()[...] = 5.0
    with pytest.raises(GraphError, match="changed in place"):
        total.backward()


def test_a_parameter_shares_the_memory_and_the_changes_of_its_tensor(backend: Backend) -> None:
    data = gpucnn.tensor([1.0, 2.0])
    parameter = nn.Parameter(data)
    y = (parameter * parameter).sum()
    data[0] = 5.0
    assert parameter.tolist() == [5, 2]
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


def test_an_index_tensor_changed_after_forward_changes_no_gradient(backend: Backend) -> None:
    x, index = gpucnn.tensor([1.0, 2.0], requires_grad=True), gpucnn.tensor([0, 0])
    y = x[index].sum()
    index[...] = 1
    y.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 0]


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.1), lambda p: optim.SGD(p, 0.1, 0.9), optim.Adam])
def test_a_step_between_forward_and_backward_is_noticed(backend: Backend, make: Callable[..., Any]) -> None:
    layer = nn.Linear(3, 2)
    optimizer = make(layer.parameters())
    x = gpucnn.tensor(np.ones((4, 3), np.float32), requires_grad=True)
    layer(x).sum().backward()
    late = (layer(x) * layer(x)).sum()
    optimizer.step()
    with pytest.raises(GraphError, match="changed in place"):
        late.backward()


def test_loading_weights_between_forward_and_backward_is_noticed(backend: Backend) -> None:
    layer = nn.Linear(3, 2)
    y = layer(gpucnn.tensor(np.ones((4, 3), np.float32), requires_grad=True)).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


def test_initialising_between_forward_and_backward_is_noticed(backend: Backend) -> None:
    layer = nn.Linear(3, 2)
    y = layer(gpucnn.tensor(np.ones((4, 3), np.float32), requires_grad=True)).sum()
    nn.init.zeros_(layer.weight)
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


@pytest.mark.parametrize(
    "write",
    [
        lambda total, loss: total.__iadd__(loss),
        lambda total, loss: total.__setitem__(..., loss),
        lambda total, loss: total.copy_(loss),
    ],
)
def test_writing_a_value_with_gradient_into_a_plain_tensor_would_lose_it(
    backend: Backend, write: Callable[..., Any]
) -> None:
    loss, total = gpucnn.tensor([2.0], requires_grad=True).sum(), gpucnn.tensor(1.0)
    with pytest.raises(GraphError, match=r"would lose them.*detach"):
        write(total, loss)
    assert total.item() == 1
    with no_grad():
        write(total, loss)
    assert total.item() in (2, 3)


def test_clones_and_results_are_free_to_change(backend: Backend) -> None:
    x = gpucnn.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    for other in (x.detach().clone(), x.detach() * 1, gpucnn.tensor(x)):
        other[...] = 7.0
    assert x.numpy().tolist() == [1, 2]
    y.backward()


def test_numpy_is_a_copy(backend: Backend) -> None:
    x = gpucnn.tensor([1.0, 2.0])
    host = x.numpy()
    host[0] = 9
    assert x.tolist() == [1, 2]
    assert host.flags.c_contiguous
    assert gpucnn.tensor(np.ones((2, 3)).T).numpy().flags.c_contiguous


def test_assignment_reads_and_writes_as_numpy_does(backend: Backend) -> None:
    x, host = gpucnn.tensor(np.zeros((3, 4))), np.zeros((3, 4))
    for key, value in ((0, 1.0), ((slice(None), 1), 2.0), ((..., [0, 2]), 3), (np.eye(3, 4) > 0, 4.0)):
        host[key] = value
        x[gpucnn.tensor(key) if isinstance(key, np.ndarray) else key] = value
    x[2] = gpucnn.tensor([5, 6, 7, 8])
    host[2] = [5, 6, 7, 8]
    assert np.array_equal(x.numpy(), host)


MISTAKES: dict[str, tuple[Callable[[Tensor], Any], type[GpucnnError]]] = {
    "a value of another shape": (lambda x: x.__setitem__(0, gpucnn.tensor([1.0, 2.0])), ShapeError),
    "an index too far": (lambda x: x.__setitem__(7, 1.0), ShapeError),
    "a list as value": (lambda x: x.__setitem__(0, [1.0]), DTypeError),
    "None as value": (lambda x: x.__setitem__(0, None), DTypeError),
    "another floating dtype": (lambda x: x.__setitem__(0, gpucnn.tensor(np.ones(()))), DTypeError),
    "a sum of another shape": (lambda x: x.__iadd__(gpucnn.tensor(np.ones((2, 3), np.float32))), ShapeError),
    "a float into integers": (lambda x: gpucnn.tensor([1]).__iadd__(0.5), DTypeError),
    "a quotient of integers": (lambda x: gpucnn.tensor([1]).__itruediv__(2), DTypeError),
    "copy of another shape": (lambda x: x.copy_(gpucnn.tensor([1.0])), ShapeError),
    "copy of a list": (lambda x: x.copy_([1.0, 2.0, 3.0]), DTypeError),
    "copy of a host array": (lambda x: x.copy_(np.ones(3)), DTypeError),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_change_nothing_and_are_named(backend: Backend, name: str) -> None:
    x = gpucnn.tensor([1.0, 2.0, 3.0])
    attempt, error = MISTAKES[name]
    with pytest.raises(error):
        attempt(x)
    assert x.tolist() == [1, 2, 3]
