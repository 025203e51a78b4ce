"""Loss, accuracy and confusion, against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn
from gpucnn.backend import Backend, get_backend
from gpucnn.data import ArrayDataset
from gpucnn.errors import DataError, DivergedError
from gpucnn.training import Evaluation, Loader, Normalisation, evaluate

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (37, 1, 28, 28), np.uint8), RNG.integers(0, 10, 37)


def loader_of(backend: Backend) -> Loader:
    data = ArrayDataset(IMAGES, LABELS, [str(i) for i in range(10)])
    return Loader(data, backend, Normalisation((0.5,), (0.25,)))


@pytest.mark.parametrize("batch_size", [1, 10, 37, 1000])
def test_against_logits_by_hand(backend: Backend, batch_size: int) -> None:
    gpucnn.manual_seed(1)
    net = models.lenet()
    with gpucnn.no_grad():
        x = gpucnn.tensor(((IMAGES / 255 - 0.5) / 0.25).astype(np.float32))
        logits = net(x).numpy().astype(np.float64)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    result = evaluate(net, loader_of(backend), batch_size)
    assert result.loss == pytest.approx(-np.log(probabilities[np.arange(37), LABELS]).mean(), rel=1e-5)
    assert result.accuracy == (logits.argmax(1) == LABELS).mean()
    assert result.labels.tolist() == LABELS.tolist()
    assert result.predictions.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(result.confidences, probabilities.max(1), rtol=1e-5)
    losses = -np.log(probabilities[np.arange(37), LABELS])
    np.testing.assert_allclose(result.losses, losses, rtol=1e-4, atol=1e-6)
    mistakes = sorted((-losses[i], i) for i in range(37) if logits[i].argmax() != LABELS[i])
    assert result.worst(5).tolist() == [i for _, i in mistakes[:5]]
    assert len(result.worst(1000)) == len(mistakes) == 37 - round(37 * result.accuracy)


def test_confusion_counts_label_by_row() -> None:
    labels, predictions = np.array([0, 0, 2, 2, 2, 1]), np.array([0, 1, 2, 2, 0, 1])
    result = Evaluation(0.0, 0.0, labels, predictions, np.ones(6), np.zeros(6))
    assert result.confusion(4).tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_no_numbers_give_no_accuracy(backend: Backend, value: str) -> None:
    net = models.lenet()
    with gpucnn.no_grad():
        net[11].bias[...] = float(value)
    with pytest.raises(DivergedError, match="not finite for 37 of 37 images: its weights are damaged"):
        evaluate(net, loader_of(backend), 10)


class Spy(nn.Module):
    """Notes the mode it is in; answers class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def forward(self, x: gpucnn.Tensor) -> gpucnn.Tensor:
        self.seen.append(self.training)
        if len(self.seen) > 1:
            raise RuntimeError("as a user's own network might")
        return gpucnn.tensor(np.eye(10, dtype=np.float32)[np.zeros(len(x), int)])


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_evaluation_and_is_given_back(training: bool) -> None:
    net = Spy().train(training)
    evaluate(net, loader_of(get_backend("cpu")))
    assert net.seen == [False]
    assert net.training is training
    with pytest.raises(RuntimeError):
        evaluate(net, loader_of(get_backend("cpu")))
    assert net.training is training


def test_nothing_to_measure() -> None:
    data = ArrayDataset(IMAGES[:0], LABELS[:0], ["a"])
    with pytest.raises(DataError, match="at least one image"):
        evaluate(nn.Flatten(), Loader(data, get_backend("cpu"), Normalisation((0.0,), (1.0,))))
