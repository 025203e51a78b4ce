"""The gradient check passes what is right, finds what is planted, and leaves everything as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, nn, optim
from gpucnn import functional as F
from gpucnn.autograd import apply
from gpucnn.backend import Backend, default_generator
from gpucnn.errors import DTypeError, ParameterError
from gpucnn.inspect import check_gradients

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 1, 6, 6))


def wrong_square(backend: Backend, x: Any, requires_grad: tuple[bool, ...]) -> Any:
    return x * x, (lambda dy: (3 * dy * x,)) if requires_grad[0] else None


def test_what_is_right_passes(backend: Backend) -> None:
    report = check_gradients(lambda x, w: F.conv2d(x, w, padding=1), IMAGES, RNG.standard_normal((2, 1, 3, 3)))
    assert report
    assert report.passed
    assert report.error < 1e-7
    assert [(check.name, check.checked) for check in report.checks] == [("input 0", 72), ("input 1", 18)]


def test_the_numbers_reported() -> None:
    (check,) = check_gradients(lambda x: (x * x).sum(), gpucnn.tensor([3.0])).checks
    weight = np.random.default_rng(0).uniform(0.5, 1.5)
    assert check.backward == pytest.approx(6 * weight)
    assert check.numerical == pytest.approx(6 * weight, rel=1e-8)


def test_a_planted_fault_is_found() -> None:
    report = check_gradients(lambda x: apply(wrong_square, x), [1.0, 4.0, 0.0], tolerance=1e-3)
    assert not report
    (check,) = report.checks
    assert check.backward / check.numerical == pytest.approx(1.5, rel=1e-6)
    assert check.index in ((0,), (1,))
    assert check.error == pytest.approx(1 / 3, rel=1e-6)
    assert str(report).startswith("WRONG input 0  error 3.3e-01 of 3 elements; at (")


def test_a_forgotten_or_missing_gradient_is_found() -> None:
    assert not check_gradients(lambda x: x.detach() * 2, [1.0])
    assert not check_gradients(lambda x: x * 0 + float("nan"), [1.0])
    unused = check_gradients(lambda x, y: x * 2, [1.0], [1.0])
    assert unused, "what has no influence has no gradient"
    assert unused.checks[1].numerical == 0


def test_parameters_of_a_module() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 3)
    )
    net.to("float64")
    net[0].bias.requires_grad_(False)
    before, drawn = net.state_dict(), (default_generator.seed, default_generator.counter)
    report = check_gradients(net, IMAGES, samples=5)
    assert report, str(report)
    assert [(check.name, check.checked) for check in report.checks] == [
        ("input 0", 5), ("0.weight", 5), ("1.weight", 2), ("1.bias", 2), ("5.weight", 5), ("5.bias", 3),
    ]  # fmt: skip
    assert all((array == before[name]).all() for name, array in net.state_dict().items()), "buffers too"
    assert (default_generator.seed, default_generator.counter) == drawn
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training


def test_parameters_of_a_function_that_an_optimiser_owns() -> None:
    layer, labels = nn.Linear(3, 2, dtype="float64"), np.array([0, 1])
    optimizer = optim.Adam(layer.parameters(), 0.1)
    x = RNG.standard_normal((2, 3))
    layer(gpucnn.tensor(x)).sum().backward()
    assert layer.weight is not None
    assert layer.weight.grad is not None
    gradient = layer.weight.grad.numpy()
    report = check_gradients(lambda x, y: F.cross_entropy(layer(x), y), x, labels, module=layer)
    assert report
    assert [check.name for check in report.checks] == ["input 0", "weight", "bias"]
    np.testing.assert_array_equal(layer.weight.grad.numpy(), gradient)
    optimizer.step()


def test_after_an_error_all_is_as_it_was() -> None:
    layer = nn.Linear(2, 2, dtype="float64")
    before, calls = layer.state_dict(), []

    def fail(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("on purpose")
        return layer(x)

    with pytest.raises(RuntimeError, match="on purpose"):
        check_gradients(fail, np.array([1.0, 2.0]), module=layer)
    calls.clear()
    with pytest.raises(RuntimeError, match="on purpose"):
        check_gradients(lambda: fail(gpucnn.tensor(np.ones(2))), module=layer)
    assert all((array == before[name]).all() for name, array in layer.state_dict().items())


def test_mistakes() -> None:
    with pytest.raises(DTypeError, match=r"weight: expected float64, got float32. Convert a copy"):
        check_gradients(nn.Linear(2, 2), [1.0, 2.0])
    with pytest.raises(ParameterError, match="at least one floating input or parameter"):
        check_gradients(lambda x: x, [1, 2])
    with pytest.raises(DTypeError, match="one floating Tensor, got float"):
        check_gradients(lambda x: 1.0, [1.0])  # type: ignore[arg-type,return-value]
    for wrong in ({"eps": 0}, {"tolerance": -1.0}, {"samples": 0}, {"eps": True}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            check_gradients(lambda x: x, [1.0], **wrong)  # type: ignore[arg-type]
