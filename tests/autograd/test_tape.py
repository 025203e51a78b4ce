"""The tape: what is recorded, in which order it is undone, when it is freed, and what it refuses."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, no_grad
from gpucnn.autograd import apply, is_grad_enabled
from gpucnn.backend import Array, Backend
from gpucnn.errors import DTypeError, GpucnnError, GraphError, MixedDeviceError, ShapeError


def leaf(*values: float) -> Tensor:
    return gpucnn.tensor(list(values), requires_grad=True)


def gradient_of(x: Tensor) -> Any:
    assert x.grad is not None
    return x.grad.tolist()


def test_ten_thousand_operations_in_a_row(backend: Backend) -> None:
    x = leaf(1.0)
    y = x
    for _ in range(10_000):
        y = y + 1
    y.sum().backward()
    assert gradient_of(x) == [1]


def test_a_hundred_thousand_operations_are_freed_without_recursion() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y * 1
    del y
    gc.collect()
    y = x
    for _ in range(100_000):
        y = y + 1
    y.sum().backward()
    assert gradient_of(x) == [1]


def test_gradients_add_up_over_backward_calls(backend: Backend) -> None:
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    (x * x).sum().backward()
    assert gradient_of(x) == [5, 7]


def test_a_second_backward_raises(backend: Backend) -> None:
    x = leaf(1.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(
        GraphError, match=r"backward: the graph of sum has already been used and freed.*forward pass again"
    ):
        y.backward()
    assert gradient_of(x) == [2]


def test_a_second_backward_through_a_shared_part_raises(backend: Backend) -> None:
    x = leaf(1.0)
    shared = x * x
    first, second = shared.sum(), (shared * 2).sum()
    first.backward()
    with pytest.raises(GraphError, match="the graph of mul has already been used and freed"):
        second.backward()


def test_backward_needs_a_scalar_or_a_gradient(backend: Backend) -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(GraphError, match=r"expected a scalar, got shape \(2,\)"):
        (x * 2).backward()
    (x * 2).backward(gpucnn.tensor([1.0, 10.0]))
    assert gradient_of(x) == [2, 20]
    x.backward(gpucnn.tensor([1.0, 1.0]))
    assert gradient_of(x) == [3, 21]


@pytest.mark.parametrize(
    ("gradient", "error", "words"),
    [
        (lambda: gpucnn.tensor([1.0]), ShapeError, r"expected shape \(2,\), got \(1,\)"),
        (lambda: gpucnn.tensor([1, 1]), DTypeError, "dtype float32"),
        (lambda: np.ones(2, np.float32), DTypeError, "expected a Tensor, got ndarray"),
        (lambda: [1.0, 1.0], DTypeError, "expected a Tensor, got list"),
    ],
)
def test_a_gradient_that_does_not_fit_is_named(
    backend: Backend, gradient: Any, error: type[GpucnnError], words: str
) -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    with pytest.raises(error, match=words):
        y.backward(gradient())
    with pytest.raises(error, match=words):
        x.grad = gradient()
    y.backward(gpucnn.tensor([1.0, 1.0]))  # nothing was spoilt
    assert gradient_of(x) == [2, 2]


def test_backward_without_a_graph_is_named(backend: Backend) -> None:
    for y in (gpucnn.tensor(1.0), gpucnn.tensor(1.0) * 2, leaf(1.0).sum().detach()):
        with pytest.raises(GraphError, match="does not require a gradient"):
            y.backward()


def test_devices_that_meet_are_named(standin: Backend) -> None:
    ours, theirs = leaf(1.0), leaf(1.0).cuda()
    attempts = [
        lambda: ours + theirs,
        lambda: theirs @ ours,
        lambda: ours == theirs,
        lambda: ours.sum().backward(theirs.sum().detach()),
        lambda: ours.detach().__setitem__(0, theirs.detach()[0]),
        lambda: ours[theirs > 0],
        lambda: gpucnn.functional.linear(ours, theirs.reshape(1, 1)),
        lambda: gpucnn.functional.cross_entropy(ours.reshape(1, 1), gpucnn.tensor([0], device="cuda")),
    ]
    for attempt in attempts:
        with pytest.raises(MixedDeviceError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
            attempt()


def test_requires_grad_is_for_floating_leaves(backend: Backend) -> None:
    with pytest.raises(DTypeError, match=r"requires_grad_: tensor: expected a floating dtype, got int64"):
        gpucnn.tensor([1], requires_grad=True)
    with pytest.raises(GraphError, match="result of an operation"):
        (leaf(1.0) * 2).requires_grad_(False)
    assert not leaf(1.0).to("int64").requires_grad


def test_no_grad_records_nothing(backend: Backend) -> None:
    x = leaf(1.0)
    with no_grad():
        assert not is_grad_enabled()
        y = x * 2
        with no_grad():
            pass
        assert not (x * 2).requires_grad
    assert is_grad_enabled()
    assert y.is_leaf
    assert (x * 2).requires_grad


def test_no_grad_ends_with_an_exception_and_can_be_entered_again(backend: Backend) -> None:
    block = no_grad()
    with pytest.raises(KeyError), block:
        raise KeyError
    assert is_grad_enabled()
    with block, block:
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_no_grad_is_of_this_thread_only() -> None:
    inside, checked = threading.Event(), threading.Event()
    seen: list[bool] = []

    def without_gradients() -> None:
        with no_grad():
            inside.set()
            checked.wait(5)
            seen.append(leaf(1.0).sum().requires_grad)

    thread = threading.Thread(target=without_gradients)
    thread.start()
    assert inside.wait(5)
    assert leaf(1.0).sum().requires_grad
    checked.set()
    thread.join()
    assert seen == [False]


def test_hooks_see_and_may_replace_a_gradient(backend: Backend) -> None:
    x = leaf(1.0, 2.0)
    y = x * 3
    seen: list[Any] = []
    y.register_hook(lambda gradient: seen.append(gradient.tolist()))
    y.register_hook(lambda gradient: gradient * 10)
    y.sum().backward()
    assert seen == [[1, 1]]
    assert gradient_of(x) == [30, 30]
    with pytest.raises(GraphError, match="only the result of a recorded operation"):
        x.register_hook(lambda gradient: None)


@pytest.mark.parametrize("wrong", [lambda g: 1, lambda g: g.numpy(), lambda g: g.sum(), lambda g: g.to("float64")])
def test_what_a_hook_returns_is_checked(backend: Backend, wrong: Any) -> None:
    y = leaf(1.0, 2.0) * 3
    y.register_hook(wrong)
    with pytest.raises(GpucnnError, match="register_hook"):
        y.sum().backward()


def test_a_hook_on_a_scalar_may_change_its_gradient_in_place(backend: Backend) -> None:
    x = leaf(2.0)
    y = x.sum()

    def double(gradient: Tensor) -> Tensor:
        gradient *= 2
        return gradient

    y.register_hook(double)
    (y * y).backward()
    assert gradient_of(x) == [8]


class Kept:
    """Something an operation keeps for backward, that a weak reference can watch."""


def watched(x: Tensor, log: list[tuple[str, list[bool]]], kept: list[weakref.ref[Kept]], name: str) -> Tensor:
    """An identity whose backward notes which of the kept things are still alive."""

    def operation(backend: Backend, a: Array, requires_grad: tuple[bool, ...]) -> Any:
        thing = Kept()
        kept.append(weakref.ref(thing))

        def backward(dy: Array, thing: Kept = thing) -> tuple[Array]:
            log.append((name, [ref() is not None for ref in kept]))
            return (dy,)

        return a.copy(), backward

    return apply(operation, x)


def test_what_a_node_kept_is_freed_as_soon_as_it_was_used(backend: Backend) -> None:
    log: list[tuple[str, list[bool]]] = []
    kept: list[weakref.ref[Kept]] = []
    x = leaf(1.0)
    first = watched(x, log, kept, "first")
    second = watched(first, log, kept, "second")
    third = watched(second, log, kept, "third")
    third.sum().backward()
    assert log == [("third", [True] * 3), ("second", [True, True, False]), ("first", [True, False, False])]
    assert not any(ref() for ref in kept)
    assert second.shape == (1,)  # the results themselves are the user's


def test_a_graph_nobody_needs_is_freed_at_once(backend: Backend) -> None:
    kept: list[weakref.ref[Kept]] = []
    y = watched(leaf(1.0), [], kept, "only")
    gc.disable()
    try:
        del y
        assert kept[0]() is None  # without the cycle collector
    finally:
        gc.enable()


def test_nothing_is_kept_where_nothing_needs_a_gradient(backend: Backend) -> None:
    x = gpucnn.tensor(np.ones((2, 1, 6, 6), np.float32))
    w = gpucnn.tensor(np.ones((1, 1, 3, 3), np.float32))
    for y in (x * 2, gpucnn.functional.conv2d(x, w), gpucnn.functional.max_pool2d(x, 2), x.exp(), x[0], x.sum()):
        assert y.node is None
        assert not y.requires_grad


def test_gradients_do_not_share_memory_with_one_another(backend: Backend) -> None:
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    seed = gpucnn.tensor([1.0, 1.0])
    (a + b).backward(seed)
    assert a.grad is not None
    with no_grad():
        a.grad *= 7
    assert gradient_of(b) == [1, 1]
    assert seed.tolist() == [1, 1]
