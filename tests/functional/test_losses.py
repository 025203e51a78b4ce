"""Every loss against PyTorch in float64, on random configurations: options, reductions, layouts, empty batches."""

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

REDUCTIONS = ("mean", "sum", "none")


@st.composite
def class_cases(draw: st.DrawFn) -> dict[str, Any]:
    """Cross-entropy of labels or distributions, or the loss of log-probabilities, with any of their options."""
    C = draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["labels", "labels", "shares", "log-probabilities"]))
    return {
        "kind": kind,
        "N": draw(st.sampled_from([0, 1, 2, 5])),
        "C": C,
        "reduction": draw(st.sampled_from(REDUCTIONS)),
        "weight": draw(st.booleans()),
        "ignored": draw(st.none() | st.integers(-1, C - 1)) if kind != "shares" else None,
        "smoothing": draw(st.sampled_from([0.0, 0.0, 0.1, 1.0])) if kind != "log-probabilities" else 0.0,
        # A sure answer's gradient is the difference of 1 and nearly 1, of which float32 has few digits, here and there.
        **draw(st.sampled_from([{"dtype": "float32", "spread": 0.3}, {"dtype": "float64", "spread": 3.0}])),
        "layouts": tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(2)),
        "seed": draw(st.integers(0, 99)),
    }


def hold_class_loss_against_pytorch(backend: Backend, case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    rng, N, C, ignored = np.random.default_rng(case["seed"]), case["N"], case["C"], case["ignored"]
    x = rng.standard_normal((N, C)) * case["spread"]
    weight = (rng.random(C) + 0.1).astype(case["dtype"]) if case["weight"] else None
    if case["kind"] == "shares":
        target = rng.dirichlet(np.ones(C), N).astype(case["dtype"])
    else:
        target = rng.integers(0, C, N)
        if ignored is not None:
            target[rng.random(N) < 0.3] = ignored
    options: dict[str, Any] = {"reduction": case["reduction"]}
    if case["kind"] != "log-probabilities":
        options["label_smoothing"] = case["smoothing"]
    name = "nll_loss" if case["kind"] == "log-probabilities" else "cross_entropy"
    our_weight = None if weight is None else gpucnn.tensor(weight)
    their_weight = None if weight is None else torch.tensor(weight.astype(np.float64))
    hold_against_torch(
        backend,
        lambda x, *t: getattr(F, name)(
            x, *(t or [gpucnn.tensor(target)]), weight=our_weight, ignore_index=ignored, **options
        ),
        lambda x, *t: getattr(torch.nn.functional, name)(
            x,
            *(t or [torch.tensor(target)]),
            weight=their_weight,
            ignore_index=-100 if ignored is None else ignored,
            **options,
        ),
        (x, target) if case["kind"] == "shares" else (x,),
        case["dtype"],
        case["layouts"],
        case["seed"],
    )


def their_hinge_loss(x: Any, t: Any, reduction: str) -> Any:
    losses = (1 - x * t).clamp(min=0)
    return losses if reduction == "none" else getattr(losses, reduction)()


ELEMENTWISE = (
    "mse_loss",
    "l1_loss",
    "huber_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "hinge_loss",
)


@st.composite
def elementwise_cases(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(ELEMENTWISE))
    return {
        "name": name,
        "shape": tuple(draw(st.lists(st.integers(0, 4), max_size=4))),
        "reduction": draw(st.sampled_from(REDUCTIONS)),
        "options": {"delta": draw(st.sampled_from([0.3, 1.0, 5.0]))} if name == "huber_loss" else {},
        "extreme": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "layouts": tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(3)),
        "seed": draw(st.integers(0, 99)),
    }


def their_logits_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """The loss by PyTorch's logarithms of sigmoids: its own gradient, sigmoid(x) - target, cancels where both are near 1."""
    import torch

    log = torch.nn.functional.logsigmoid
    each = -target * log(x) - (1 - target) * log(-x)
    return each if reduction == "none" else getattr(each, reduction)()


OF_OUR_OWN = {"hinge_loss": their_hinge_loss, "binary_cross_entropy_with_logits": their_logits_loss}


def hold_elementwise_loss_against_pytorch(backend: Backend, case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    rng, name, shape = np.random.default_rng(case["seed"]), case["name"], case["shape"]
    options = {"reduction": case["reduction"], **case["options"]}
    x, target = rng.standard_normal(shape) * (10 if case["extreme"] else 1), rng.standard_normal(shape)
    if name.startswith("binary"):
        target = rng.random(shape)
        if case["extreme"]:
            target = target.round()
    if name == "binary_cross_entropy":  # certain answers too, of which half are wrong
        x = rng.random(shape).round() if case["extreme"] else rng.random(shape) * 0.98 + 0.01
    if name == "hinge_loss":
        target = np.where(target < 0, -1.0, 1.0)
    theirs = OF_OUR_OWN[name] if name in OF_OUR_OWN else getattr(torch.nn.functional, name)
    # The logarithms that the loss cuts off at -100, PyTorch leaves infinite in the gradient by the target.
    fixed = name == "binary_cross_entropy" and case["extreme"]
    our_target, their_target = gpucnn.tensor(target.astype(case["dtype"])), torch.tensor(target)
    hold_against_torch(
        backend,
        lambda x, t=our_target: getattr(F, name)(x, t, **options),
        lambda x, t=their_target: theirs(x, t, **options),
        (x,) if fixed else (x, target),
        case["dtype"],
        case["layouts"],
        case["seed"],
    )


@given(case=class_cases())
def test_losses_of_classes_are_pytorchs(backend: Backend, case: dict[str, Any]) -> None:
    hold_class_loss_against_pytorch(backend, case)


@given(case=elementwise_cases())
def test_elementwise_losses_are_pytorchs(backend: Backend, case: dict[str, Any]) -> None:
    hold_elementwise_loss_against_pytorch(backend, case)


@pytest.mark.slow
@settings(max_examples=1000)
@given(case=class_cases())
def test_a_thousand_losses_of_classes(backend: Backend, case: dict[str, Any]) -> None:
    hold_class_loss_against_pytorch(backend, case)


@pytest.mark.slow
@settings(max_examples=1000)
@given(case=elementwise_cases())
def test_a_thousand_elementwise_losses(backend: Backend, case: dict[str, Any]) -> None:
    hold_elementwise_loss_against_pytorch(backend, case)
