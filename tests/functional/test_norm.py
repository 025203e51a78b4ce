"""Normalisation against PyTorch in float64: values, gradients and running statistics of random configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import LAYOUTS, assert_close, hold_against_torch, lay_out

import gpucnn
import gpucnn.functional as F
from gpucnn import nn
from gpucnn.backend import Backend
from gpucnn.errors import GpucnnError

KINDS = ("batch", "layer", "group")


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """One of the three kinds, on (N, C), (N, C, L) or (N, C, H, W)."""
    groups = draw(st.integers(1, 3))
    shape = (draw(st.integers(0, 4)), groups * draw(st.integers(1, 3)))
    shape += tuple(draw(st.integers(1, 4)) for _ in range(draw(st.integers(0, 2))))
    return {
        "kind": draw(st.sampled_from(KINDS)),
        "shape": shape,
        "groups": groups,
        "last": draw(st.integers(1, len(shape) - 1)),
        "training": draw(st.booleans()),
        "tracked": draw(st.booleans()),
        "scale": draw(st.booleans()),
        "shift": draw(st.booleans()),
        "eps": draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        "momentum": draw(st.sampled_from([0.0, 0.1, 0.7, 1.0])),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "layouts": tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(3)),
        "seed": draw(st.integers(0, 99)),
    }


def values_normalised_together(case: dict[str, Any]) -> int:
    shape = case["shape"]
    if case["kind"] == "batch":
        return int(np.prod(shape)) // shape[1]
    if case["kind"] == "layer":
        return int(np.prod(shape[-case["last"] :]))
    return int(np.prod(shape[1:])) // case["groups"]


def hold_against_pytorch(backend: Backend, case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    rng, shape, kind, eps = np.random.default_rng(case["seed"]), case["shape"], case["kind"], case["eps"]
    learnt = shape[-case["last"] :] if kind == "layer" else shape[1:2]
    x = rng.standard_normal(shape) + 0.5
    w = rng.standard_normal(learnt) if case["scale"] else None
    b = rng.standard_normal(learnt) if case["shift" if kind != "group" else "scale"] else None  # PyTorch: both or none
    dtype, their = case["dtype"], torch.nn.functional
    own = kind != "batch" or case["training"] or not case["tracked"]
    together = values_normalised_together(case)
    if own and together in (2, 3):
        dtype = "float64"  # the gradient of so few is a small difference of large numbers

    def their_layer_norm(x: Any, w: Any, b: Any) -> Any:
        if together > 1:
            return their.layer_norm(x, learnt, w, b, eps)
        y = 0 * x if w is None else 0 * x * w  # of a single value it gives a gradient of rounding errors
        return y if b is None else y + b

    def their_group_norm(x: Any, w: Any, b: Any) -> Any:
        if together > 1 and len(x):
            return their.group_norm(x, case["groups"], w, b, eps)
        ones = [-1, *[1] * (x.ndim - 2)]  # it refuses a single value, and cannot give an empty batch's gradients
        return 0 * x if w is None else 0 * x * w.reshape(ones) + b.reshape(ones)

    if kind == "layer":
        hold_against_torch(
            backend,
            lambda x, w, b: F.layer_norm(x, learnt, w, b, eps),
            their_layer_norm,
            (x, w, b), dtype, case["layouts"],
        )  # fmt: skip
    elif kind == "group":
        hold_against_torch(
            backend,
            lambda x, w, b: F.group_norm(x, case["groups"], w, b, eps),
            their_group_norm,
            (x, w, b), dtype, case["layouts"],
        )  # fmt: skip
    else:
        hold_batch_norm_against_pytorch(backend, torch, case, dtype, (x, w, b))


def hold_batch_norm_against_pytorch(
    backend: Backend, torch: Any, case: dict[str, Any], dtype: str, inputs: tuple[Any, ...]
) -> None:
    rng, C = np.random.default_rng(case["seed"] + 1), case["shape"][1]
    start = [rng.standard_normal(C).astype(dtype), (rng.random(C) + 0.5).astype(dtype)] if case["tracked"] else None
    ours = [lay_out(a, case["layouts"][0], backend) for a in start] if start else [None, None]
    theirs = [torch.tensor(a.astype(np.float64)) for a in start] if start else [None, None]
    training = case["training"] or not case["tracked"]
    arguments = training, case["momentum"], case["eps"]
    if training and values_normalised_together(case) == 1:
        for library, running, tensor in ((torch.nn.functional, theirs, torch.tensor), (F, ours, gpucnn.tensor)):
            with pytest.raises((ValueError, GpucnnError), match=r"more than 1 value|more than one value"):
                library.batch_norm(tensor(inputs[0].astype(dtype)), *running, None, None, *arguments)
        return
    hold_against_torch(
        backend,
        lambda x, w, b: F.batch_norm(x, *ours, w, b, *arguments),
        lambda x, w, b: torch.nn.functional.batch_norm(x, *theirs, w, b, *arguments),
        inputs, dtype, case["layouts"],
    )  # fmt: skip
    for running, expected in zip(ours, theirs, strict=True):
        if running is not None:
            assert_close(running, expected.numpy())


@given(case=cases())
def test_values_gradients_and_running_statistics_are_pytorchs(backend: Backend, case: dict[str, Any]) -> None:
    hold_against_pytorch(backend, case)


@pytest.mark.slow
@settings(max_examples=1000)
@given(case=cases())
def test_a_thousand_normalisations(backend: Backend, case: dict[str, Any]) -> None:
    hold_against_pytorch(backend, case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("N", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_pixel_images_and_empty_batches(backend: Backend, kind: str, N: int, layout: str) -> None:
    case = {
        "kind": kind, "shape": (N, 4, 1, 1), "groups": 2, "last": 3, "training": True, "tracked": True, "scale": True,
        "shift": True, "eps": 1e-5, "momentum": 0.1, "dtype": "float64", "layouts": (layout,), "seed": 0,
    }  # fmt: skip
    hold_against_pytorch(backend, case)


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_batch_norm_layers_follow_pytorchs_through_training_and_evaluation(
    backend: Backend, dimensions: int, momentum: float | None, affine: bool, tracked: bool
) -> None:
    torch = pytest.importorskip("torch")
    name, rng = f"BatchNorm{dimensions}d", np.random.default_rng(4)
    ours = getattr(nn, name)(3, 1e-4, momentum, affine, tracked, dtype="float64")
    theirs = getattr(torch.nn, name)(3, 1e-4, momentum, affine, tracked, dtype=torch.float64)
    for training in (True, True, True, False, True, False):
        ours.train(training), theirs.train(training)
        x = rng.standard_normal((5, 3, 4, 2)[: 2 * dimensions]) * 2 + 1
        assert_close(ours(gpucnn.tensor(x)), theirs(torch.tensor(x)).detach().numpy())
        expected = {key: value.numpy() for key, value in theirs.state_dict().items()}
        found = ours.state_dict()
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-12, atol=1e-15)
            assert found[key].dtype == value.dtype


@pytest.mark.parametrize("size", [1e20, 1e38])
def test_values_whose_squares_overflow_are_normalised(size: float) -> None:
    """Where PyTorch gives zeros, or not a number."""
    unit = np.array([[-1.0, 3.0], [1.0, 3.0], [2.0, 3.0]], np.float32)
    x = gpucnn.tensor(unit * np.float32(size), requires_grad=True)
    wanted = (unit - unit.mean(0)) / np.maximum(unit.std(0), 1e-30)
    y = F.batch_norm(x, None, None)
    assert np.allclose(y.numpy()[:, 0], wanted[:, 0], rtol=1e-5)
    assert np.isfinite(y.numpy()).all()
    (y * gpucnn.tensor(np.arange(6, dtype=np.float32).reshape(3, 2))).sum().backward()
    assert x.grad is not None
    assert np.isfinite(x.grad.numpy()).all()
    rows = gpucnn.tensor(x.numpy()[:, :1].T.copy())
    for normed in (F.layer_norm(rows, (3,)), F.group_norm(rows, 1)):
        assert np.allclose(normed.numpy()[0], wanted[:, 0], rtol=1e-5)
    assert np.isnan(F.batch_norm(gpucnn.tensor([[np.inf], [1.0]]), None, None).numpy()).any()
