"""Cross-entropy with weights, smoothing and ignored labels, and the loss of log-probabilities, against PyTorch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from oracles import assert_close, check_gradients

import gpucnn
import gpucnn.functional as F
from gpucnn.backend import Backend
from gpucnn.errors import ParameterError, ShapeError

RNG = np.random.default_rng(5)
LOGITS = RNG.standard_normal((6, 4))
LABELS = np.array([0, 3, 1, 1, 2, 3])
SOFT = RNG.dirichlet(np.ones(4), 6)
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.25])
OPTIONS = list(itertools.product(("mean", "sum", "none"), (False, True), (0.0, 0.3)))


@pytest.mark.parametrize(("reduction", "weighted", "smoothing"), OPTIONS)
@pytest.mark.parametrize(
    ("target", "ignored"), [(LABELS, None), (LABELS, 1), (SOFT, None)], ids=["ints", "ignore", "soft"]
)
def test_cross_entropy_is_pytorchs(
    backend: Backend, target: np.ndarray, ignored: int | None, reduction: str, weighted: bool, smoothing: float
) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(LOGITS, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        x,
        torch.tensor(target),
        torch.tensor(WEIGHTS) if weighted else None,
        ignore_index=-100 if ignored is None else ignored,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    expected.sum().backward()
    ours = gpucnn.tensor(LOGITS, requires_grad=True)
    weight = gpucnn.tensor(WEIGHTS) if weighted else None
    y = F.cross_entropy(
        ours, gpucnn.tensor(target), reduction, weight=weight, ignore_index=ignored, label_smoothing=smoothing
    )
    y.sum().backward()
    assert ours.grad is not None
    assert_close(y, expected.detach().numpy())
    assert_close(ours.grad, x.grad.numpy())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [None, 3])
def test_nll_loss_is_pytorchs(backend: Backend, reduction: str, ignored: int | None) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(LOGITS, requires_grad=True)
    expected = torch.nn.functional.nll_loss(
        torch.log_softmax(x, 1),
        torch.tensor(LABELS),
        torch.tensor(WEIGHTS),
        ignore_index=-100 if ignored is None else ignored,
        reduction=reduction,
    )
    expected.sum().backward()
    ours = gpucnn.tensor(LOGITS, requires_grad=True)
    y = F.nll_loss(
        F.log_softmax(ours), gpucnn.tensor(LABELS), reduction, weight=gpucnn.tensor(WEIGHTS), ignore_index=ignored
    )
    y.sum().backward()
    assert ours.grad is not None
    assert_close(y, expected.detach().numpy())
    assert_close(ours.grad, x.grad.numpy())


GRADIENTS = {
    "nll_loss": lambda x: F.nll_loss(x, gpucnn.tensor(LABELS), weight=gpucnn.tensor(WEIGHTS)),
    "cross_entropy, smoothed": lambda x: F.cross_entropy(x, gpucnn.tensor(LABELS), "sum", label_smoothing=0.2),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_finite_differences(backend: Backend, name: str) -> None:
    check_gradients(GRADIENTS[name], backend, LOGITS)


def test_wrong_options_are_named() -> None:
    x, y = gpucnn.tensor(LOGITS), gpucnn.tensor(LABELS)
    with pytest.raises(ShapeError, match=r"weight: expected \(4,\)"):
        F.cross_entropy(x, y, weight=gpucnn.tensor([1.0, 2.0]))
    with pytest.raises(ParameterError, match="label_smoothing"):
        F.cross_entropy(x, y, label_smoothing=1.5)
    with pytest.raises(ParameterError, match="ignore_index"):
        F.cross_entropy(x, y, ignore_index=0.5)  # type: ignore[arg-type]
