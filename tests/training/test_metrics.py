"""Running metrics, against counts made by hand and scikit-learn's."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn.backend import Backend
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.training import Accuracy, Loss, LossAndAccuracy, Metric, PerClass, TopK

RNG = np.random.default_rng(0)
BATCHES = [(RNG.integers(-3, 4, (count, 5)).astype(np.float32), RNG.integers(0, 5, count)) for count in (7, 1, 12)]
LOGITS, LABELS = (np.concatenate(parts) for parts in zip(*BATCHES, strict=True))
LOSSES = [2.0, 0.5, 1.25]


def filled(metric: Metric, backend: Backend, one_hot: bool = False) -> Metric:
    metric.to(backend)
    for (logits, labels), loss in zip(BATCHES, LOSSES, strict=True):
        target = np.eye(5, dtype=np.float32)[labels] if one_hot else labels
        metric.update(gpucnn.tensor(np.float32(loss)), gpucnn.tensor(logits), gpucnn.tensor(target))
    return metric


def ranks() -> Any:
    """The place of each label when the outputs are sorted, the first of equal ones before the others."""
    order = np.argsort(-LOGITS, axis=1, kind="stable")
    return (order == LABELS[:, None]).argmax(1)


@pytest.mark.parametrize("one_hot", [False, True])
def test_they_are_the_counts(backend: Backend, one_hot: bool) -> None:
    mean = (7 * 2.0 + 0.5 + 12 * 1.25) / 20
    assert filled(Loss(), backend, one_hot).values() == {"loss": mean}
    assert filled(Accuracy(), backend, one_hot).values() == {"accuracy": (ranks() == 0).mean()}
    assert filled(LossAndAccuracy(), backend, one_hot).values() == {"loss": mean, "accuracy": (ranks() == 0).mean()}
    for k in (1, 2, 5, 9):
        assert filled(TopK(k), backend, one_hot).values() == {f"top_{k}": (ranks() < k).mean()}


def test_figures_of_each_class_are_scikit_learns(backend: Backend) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    answers = LOGITS.argmax(1)
    found = filled(PerClass(5), backend)
    assert isinstance(found, PerClass)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(LABELS, answers, labels=range(5)))
    figures = metrics.precision_recall_fscore_support(LABELS, answers, labels=range(5), zero_division=0)[:3]
    for name, expected in zip(("precision", "recall", "f1"), figures, strict=True):
        assert [value or 0 for value in found.values()[name]] == pytest.approx(expected.tolist())
    empty = PerClass(5).to(backend)
    empty.update(gpucnn.tensor(0.0), gpucnn.tensor([[0.0, 1, 0, 0, 0]]), gpucnn.tensor([2]))
    assert empty.values() == {
        "precision": [None, 0.0, None, None, None], "recall": [None, None, 0.0, None, None],
        "f1": [None, 0.0, 0.0, None, None],
    }  # fmt: skip


def test_outputs_for_each_pixel(backend: Backend) -> None:
    logits, labels = RNG.standard_normal((3, 4, 5, 6)).astype(np.float32), RNG.integers(0, 4, (3, 5, 6))
    metric = Accuracy().to(backend)
    metric.update(gpucnn.tensor(0.0), gpucnn.tensor(logits), gpucnn.tensor(labels))
    assert metric.values() == {"accuracy": (logits.argmax(1) == labels).mean()}


def test_no_number_is_no_correct_answer_among_the_first(backend: Backend) -> None:
    metric = TopK(2).to(backend)
    metric.update(gpucnn.tensor(0.0), gpucnn.tensor([[float("nan"), 1.0, 2.0]] * 2), gpucnn.tensor([0, 2]))
    assert metric.values() == {"top_2": 0.5}


@pytest.mark.parametrize("make", [Loss, Accuracy, LossAndAccuracy, lambda: TopK(2), lambda: PerClass(5)])
def test_state_goes_on_and_start_begins_anew(backend: Backend, make: Any) -> None:
    before = filled(make(), backend)
    after = make().to(backend)
    memory = after.sums.array
    after.load(json.loads(json.dumps(before.state())))
    assert after.values() == before.values()
    after.start()
    assert after.values() != before.values()
    assert after.sums.array is memory
    assert filled(after, backend).values() == before.values()


def test_without_an_image_there_is_no_number(backend: Backend) -> None:
    for metric in (Loss(), Accuracy(), LossAndAccuracy(), TopK(1)):
        assert all(math.isnan(value) for value in metric.to(backend).values().values())
    assert math.isnan(Loss().to(backend).last)
    assert math.isnan(LossAndAccuracy(backend).last)


def test_mistakes() -> None:
    for make in (TopK, PerClass):
        with pytest.raises(ParameterError, match="expected a positive int, got 0"):
            make(0)
    metric = Accuracy().to("cpu")
    with pytest.raises(ShapeError, match=r"target: expected class indices \(2,\), got shape \(3,\)"):
        metric.update(gpucnn.tensor(0.0), gpucnn.tensor([[1.0, 2.0]] * 2), gpucnn.tensor([0, 1, 1]))
    with pytest.raises(ShapeError, match=r"output: expected \(B, classes, ...\)"):
        metric.update(gpucnn.tensor(0.0), gpucnn.tensor([1.0, 2.0]), gpucnn.tensor([0, 1]))


def test_totals_are_means_over_images(backend: Backend) -> None:
    totals = LossAndAccuracy(backend)
    assert np.isnan(totals.loss)
    assert np.isnan(totals.accuracy)
    logits = gpucnn.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    totals.add(gpucnn.tensor(0.5), logits, gpucnn.tensor([0, 0, 0]))
    totals.add(gpucnn.tensor(2.0), logits[:1], gpucnn.tensor([0]))
    assert totals.count == 4
    assert totals.loss == pytest.approx((3 * 0.5 + 2.0) / 4)
    assert totals.accuracy == 3 / 4
    again = LossAndAccuracy(backend, **totals.state())
    assert (again.loss, again.accuracy, again.count) == (totals.loss, totals.accuracy, 4)
