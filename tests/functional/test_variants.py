"""The less usual operations: values as PyTorch's where it has them, gradients as finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import Host, assert_close, check_gradients

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor
from gpucnn.backend import Backend

RNG = np.random.default_rng(12)


def normal(*shape: int) -> Host:
    return RNG.standard_normal(shape)


def apart(*shape: int) -> Host:
    """Distinct numbers, none near 0, 1 or -1 nor near another: no kink within a small step."""
    n = int(np.prod(shape))
    return (RNG.permutation(n) - n / 2 + 0.25).reshape(shape) / 3


def shares(*shape: int) -> Host:
    return RNG.random(shape) * 0.8 + 0.1


# name: what to compute (``lib`` is gpucnn's or PyTorch's functional), its inputs, and whether PyTorch has it.
Case = tuple[Callable[..., Any], tuple[Host, ...], bool]
CASES: dict[str, Case] = {
    "leaky_relu": (lambda lib, x: lib.leaky_relu(x, 0.2), (apart(3, 4),), True),
    "elu": (lambda lib, x: lib.elu(x, 0.7), (apart(3, 4),), True),
    "selu": (lambda lib, x: lib.selu(x), (apart(3, 4),), True),
    "softplus": (lambda lib, x: lib.softplus(x, 2.0, 5.0), (apart(3, 5),), True),
    "hardsigmoid": (lambda lib, x: lib.hardsigmoid(x), (apart(7, 5),), True),
    "hardtanh": (lambda lib, x: lib.hardtanh(x, -1.5, 0.5), (apart(7, 5),), True),
    "relu6": (lambda lib, x: lib.relu6(4 * x), (apart(7, 5),), True),
    "gelu": (lambda lib, x: lib.gelu(x), (normal(3, 4),), True),
    "gelu, tanh": (lambda lib, x: lib.gelu(x, approximate="tanh"), (normal(3, 4),), True),
    "silu": (lambda lib, x: lib.silu(x), (normal(3, 4),), True),
    "affine": (lambda lib, x: lib.affine(x, 2.0, -1.0), (normal(3, 4),), False),
    "exponential": (lambda lib, x: lib.exponential(x), (normal(3, 4),), False),
    "pad2d, zeros": (lambda lib, x: lib.pad2d(x, (1, 2, 0, 3)), (normal(2, 2, 3, 4),), False),
    "pad2d, reflect": (lambda lib, x: lib.pad2d(x, (2, 1, 3, 0), "reflect"), (normal(2, 2, 3, 4),), False),
    "pad2d, replicate": (lambda lib, x: lib.pad2d(x, (1, 4, 0, 5), "replicate"), (normal(2, 2, 3, 4),), False),
    "batch_norm, training": (
        lambda lib, x, w, b: lib.batch_norm(x, None, None, w, b, True), (normal(3, 2, 2, 2), normal(2), normal(2)), True),
    "layer_norm": (
        lambda lib, x, w, b: lib.layer_norm(x, (2, 3), w, b), (normal(2, 2, 2, 3), normal(2, 3), normal(2, 3)), True),
    "group_norm": (
        lambda lib, x, w, b: lib.group_norm(x, 2, w, b), (normal(2, 4, 2, 2), normal(4), normal(4)), True),
    "conv_transpose2d": (
        lambda lib, x, w, b: lib.conv_transpose2d(x, w, b, (2, 3), (1, 0), (1, 0), 2, (1, 2)),
        (normal(2, 4, 3, 2), normal(4, 2, 3, 2), normal(4)), True),
    "conv1d": (
        lambda lib, x, w, b: lib.conv1d(x, w, b, 2, 1, 2, 2), (normal(2, 4, 7), normal(4, 2, 3), normal(4)), True),
    "conv2d_loops": (
        lambda lib, x, w, b: lib.conv2d_loops(x, w, b, (2, 1), (1, 0, 2, 1), (1, 2), 2),
        (normal(2, 4, 5, 4), normal(4, 2, 3, 2), normal(4)), False),
    "max_pool1d": (lambda lib, x: lib.max_pool1d(x, 3, 2, 1, 2, True), (normal(2, 2, 9),), True),
    "avg_pool1d": (lambda lib, x: lib.avg_pool1d(x, 3, 2, 1, True, False), (normal(2, 2, 9),), True),
    "avg_pool2d, dilated": (
        lambda lib, x: lib.avg_pool2d(x, 2, 1, 1, True, False, dilation=2), (normal(2, 2, 4, 5),), False),
    "corr2d": (lambda lib, x, w: lib.corr2d(x, w), (normal(4, 5), normal(2, 3)), False),
    "conv2d_relu_max_pool2d": (
        lambda lib, x, w: lib.conv2d_relu_max_pool2d(x, w), (normal(1, 2, 5, 5), normal(2, 2, 2, 2)), False),
    "lp_pool2d": (lambda lib, x: lib.lp_pool2d(x, 2.0, (2, 3), 2), (apart(2, 2, 4, 5),), True),
    "centre_pool2d": (
        lambda lib, x: lib.centre_pool2d(x, 3, 2, 1, 1, True), (normal(2, 2, 6, 5),), False),
    "adaptive_avg_pool2d": (lambda lib, x: lib.adaptive_avg_pool2d(x, (3, 2)), (normal(2, 2, 5, 3),), True),
    "adaptive_max_pool2d": (lambda lib, x: lib.adaptive_max_pool2d(x, (3, 2)), (apart(2, 2, 5, 3),), True),
    "global_avg_pool2d": (lambda lib, x: lib.global_avg_pool2d(x), (normal(2, 2, 3, 3),), False),
    "global_max_pool2d": (lambda lib, x: lib.global_max_pool2d(x), (apart(2, 2, 3, 3),), False),
    "max_pool2d_with_indices": (
        lambda lib, x: lib.max_pool2d_with_indices(x, 3, 2, 1)[0], (apart(2, 2, 5, 5),), True),
    "max_unpool2d": (
        lambda lib, x: lib.max_unpool2d(*lib.max_pool2d_with_indices(x, 2), 2), (apart(2, 2, 4, 4),), True),
    **{
        f"{name}, {reduction}": (
            lambda lib, x, t, name=name, reduction=reduction: getattr(lib, name)(x, t, reduction=reduction), inputs, theirs)
        for name, inputs, theirs in (
            ("l1_loss", (apart(3, 4), normal(3, 4) / 50), True),
            ("huber_loss", (apart(3, 4), normal(3, 4) / 50), True),
            ("binary_cross_entropy", (shares(3, 4), shares(3, 4)), True),
            ("binary_cross_entropy_with_logits", (normal(3, 4), shares(3, 4)), True),
            ("hinge_loss", (apart(3, 4), np.sign(apart(3, 4))), False),
        )
        for reduction in ("mean", "sum", "none")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(backend: Backend, name: str) -> None:
    function, inputs, _ = CASES[name]
    is_labelled = name.startswith("hinge_loss")  # its labels are -1 or 1 and take no gradient
    given = inputs[:1] if is_labelled else inputs

    def run(*tensors: Tensor) -> Tensor:
        return function(F, *tensors, *([gpucnn.tensor(inputs[1])] if is_labelled else []))

    check_gradients(run, backend, *given)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_values_are_pytorchs(backend: Backend, name: str) -> None:
    torch = pytest.importorskip("torch")
    function, inputs, _ = CASES[name]
    expected = function(torch.nn.functional, *(torch.tensor(x) for x in inputs))
    assert_close(function(F, *(gpucnn.tensor(x) for x in inputs)), expected.numpy())


def test_indices_are_pytorchs(backend: Backend) -> None:
    torch = pytest.importorskip("torch")
    x = apart(2, 3, 6, 7)
    _, ours = F.max_pool2d_with_indices(gpucnn.tensor(x), 3, 2, 1)
    _, theirs = torch.nn.functional.max_pool2d(torch.tensor(x), 3, 2, 1, return_indices=True)
    assert np.array_equal(ours.numpy(), theirs.numpy())


def test_padding_by_edges_is_numpys(backend: Backend) -> None:
    x = normal(2, 2, 4, 5)
    for ours, theirs in (("zeros", "constant"), ("reflect", "reflect"), ("replicate", "edge")):
        expected = np.pad(x, ((0, 0), (0, 0), (1, 2), (3, 0)), theirs)
        assert np.array_equal(F.pad2d(gpucnn.tensor(x), (1, 2, 3, 0), ours).numpy(), expected)


def test_batch_norm_keeps_pytorchs_running_statistics(backend: Backend) -> None:
    torch = pytest.importorskip("torch")
    mean, var = gpucnn.tensor(np.zeros(3)), gpucnn.tensor(np.ones(3))
    their_mean, their_var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for _ in range(3):
        x = normal(4, 3, 2, 2) * 2 + 1
        F.batch_norm(gpucnn.tensor(x), mean, var, training=True, momentum=0.3)
        torch.nn.functional.batch_norm(torch.tensor(x), their_mean, their_var, training=True, momentum=0.3)
    assert_close(mean, their_mean.numpy())
    assert_close(var, their_var.numpy())
    x = normal(4, 3, 2, 2)
    expected = torch.nn.functional.batch_norm(torch.tensor(x), their_mean, their_var)
    assert_close(F.batch_norm(gpucnn.tensor(x), mean, var), expected.numpy())


def test_the_loops_to_read_are_the_convolution(backend: Backend) -> None:
    x, w, b = (gpucnn.tensor(a) for a in (normal(2, 4, 5, 4), normal(4, 2, 3, 2), normal(4)))
    arguments = b, (2, 1), (1, 0, 2, 1), (1, 2), 2
    assert_close(F.conv2d_loops(x, w, *arguments), F.conv2d(x, w, *arguments).numpy())


def test_every_public_function_has_its_gradient_checked() -> None:
    folder = Path(__file__).parent
    files = ("test_gradients.py", "test_variants.py", "test_class_loss.py")
    checked = "".join((folder / name).read_text() for name in files)
    functions = {name for name in F.__all__ if callable(getattr(F, name))} - {"output_size"}  # its result is two ints
    assert {name for name in functions if f'"{name}"' not in checked and f'"{name},' not in checked} == set()
