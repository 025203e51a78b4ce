"""Transposed convolution against PyTorch in float64: a thousand random configurations, and what PyTorch refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import LAYOUTS, hold_against_torch

import gpucnn
import gpucnn.functional as F
from gpucnn.backend import Backend
from gpucnn.errors import DTypeError, GpucnnError


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Everything that a transposed convolution can be asked, small, and some that it must refuse."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    return {
        "N": draw(st.sampled_from([0, 1, 2, 3])),
        "C": groups * draw(st.integers(1, 2)),
        "per_group": draw(st.integers(1, 3)),
        "size": pair(1, 4),
        "kernel": pair(1, 3),
        "options": {
            "stride": pair(1, 3),
            "padding": pair(0, 2),
            "output_padding": draw(st.sampled_from([(0, 0), (1, 0), (0, 1), (1, 2), (2, 1)])),
            "dilation": pair(1, 3),
            "groups": groups,
        },
        "bias": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "layouts": tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(4)),
        "seed": draw(st.integers(0, 99)),
    }


def can_be_done(torch: Any, x_shape: tuple[int, ...], w_shape: tuple[int, ...], options: dict[str, Any]) -> bool:
    """Return whether PyTorch makes a pixel of one image: an empty batch it lets pass whatever is asked of it."""
    try:
        y = torch.nn.functional.conv_transpose2d(torch.ones((1, *x_shape[1:])), torch.ones(w_shape), None, **options)
    except RuntimeError:
        return False
    return y.numel() > 0


def hold_against_pytorch(backend: Backend, case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    rng, options = np.random.default_rng(case["seed"]), case["options"]
    x = rng.standard_normal((case["N"], case["C"], *case["size"]))
    w = rng.standard_normal((case["C"], case["per_group"], *case["kernel"]))
    b = rng.standard_normal(case["per_group"] * options["groups"]) if case["bias"] else None
    if not can_be_done(torch, x.shape, w.shape, options):
        with pytest.raises(GpucnnError, match="conv_transpose2d"):
            F.conv_transpose2d(gpucnn.tensor(x), gpucnn.tensor(w), None, **options)
        return
    hold_against_torch(
        backend,
        lambda *tensors: F.conv_transpose2d(*tensors, **options),
        lambda *tensors: torch.nn.functional.conv_transpose2d(*tensors, **options),
        (x, w, b),
        case["dtype"],
        case["layouts"],
        case["seed"],
    )


@given(case=cases())
def test_values_and_gradients_are_pytorchs(backend: Backend, case: dict[str, Any]) -> None:
    hold_against_pytorch(backend, case)


@pytest.mark.slow
@settings(max_examples=1000)
@given(case=cases())
def test_a_thousand_transposed_convolutions(backend: Backend, case: dict[str, Any]) -> None:
    hold_against_pytorch(backend, case)


@given(case=cases())
def test_blocks_and_reused_memory_change_nothing(cut_small: Backend, case: dict[str, Any]) -> None:
    hold_against_pytorch(cut_small, case)


@pytest.mark.parametrize("N", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_pixel_images_and_empty_batches(backend: Backend, N: int, layout: str) -> None:
    options = {"stride": (1, 2), "padding": 0, "output_padding": (0, 1), "dilation": 1, "groups": 2}
    case = {
        "N": N, "C": 4, "per_group": 3, "size": (1, 1), "kernel": (2, 3), "options": options,
        "bias": True, "dtype": "float64", "layouts": (layout,), "seed": 1,
    }  # fmt: skip
    hold_against_pytorch(backend, case)


@pytest.mark.parametrize("weight", [None, np.ones((1, 1, 2, 2), np.float32)], ids=["none", "a host array"])
def test_a_weight_that_is_no_tensor_is_named(weight: Any) -> None:
    with pytest.raises(DTypeError, match="conv_transpose2d: weight"):
        F.conv_transpose2d(gpucnn.tensor([[[[1.0]]]]), weight)
