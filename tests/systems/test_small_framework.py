"""System 4: a small framework with automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_objects import Descent, Doubled, Rings
from runs import small_splits

import gpucnn
import gpucnn.functional as F
from gpucnn import models, nn, optim
from gpucnn.backend import Backend
from gpucnn.data import ArrayDataset
from gpucnn.errors import GpucnnError
from gpucnn.training import Accuracy, Loader, Loop, Normalisation, evaluate, train_step


def test_a_tensor_has_data_gradient_and_a_graph(backend: Backend) -> None:
    x = gpucnn.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = (x * x).sum()
    assert y.node is not None
    y.backward()
    assert y.item() == 14
    assert x.grad is not None
    assert x.grad.tolist() == [2, 4, 6]


def test_a_node_that_is_used_twice_counts_twice_and_is_walked_once(backend: Backend) -> None:
    x = gpucnn.tensor([2.0], requires_grad=True)
    walked = []
    shared = x * 3
    shared.register_hook(lambda gradient: walked.append(gradient.item()))
    (shared * shared + shared).sum().backward()
    assert walked == [13]
    assert x.grad is not None
    assert x.grad.tolist() == [39]


def test_many_shared_nodes_take_no_time(backend: Backend) -> None:
    x = gpucnn.tensor([1.0], requires_grad=True)
    y = x
    for _ in range(60):
        y = (y + y) * 0.5
    y.sum().backward()  # a walk along every path would visit 2**60 nodes
    assert x.grad is not None
    assert x.grad.tolist() == [1]


def test_data_sets_by_index() -> None:
    splits = small_splits(20, 10)
    assert (len(splits.train), len(splits.test)) == (20, 10)
    images, labels = splits.train[np.array([3, 5])]
    assert (images.shape, labels.shape) == ((2, 1, 28, 28), (2,))
    loader = Loader(splits.train, gpucnn.get_backend("cpu"), Normalisation((0.0,), (1.0,)))
    x, y = loader.batch(np.array([3, 5]))
    np.testing.assert_allclose(x.numpy(), images / 255, atol=1e-6)
    assert y.tolist() == labels.tolist()


def test_modes_and_parameters(backend: Backend) -> None:
    net = models.conv_mlp()
    assert net.training
    assert all(not layer.training for layer in net.eval().modules())
    assert all(layer.training for layer in net.train().modules())
    assert len(list(net.parameters())) == 6


def test_dropout_is_scaled_in_training_and_absent_in_evaluation(backend: Backend) -> None:
    gpucnn.manual_seed(0)
    x, dropout = gpucnn.tensor(np.ones((100, 100), np.float32)), nn.Dropout(0.2)
    y = dropout(x).numpy()
    assert set(np.unique(y).tolist()) == {0.0, 1.25}
    assert abs(y.mean() - 1) < 0.03
    assert dropout.eval()(x).tolist() == x.tolist()


@pytest.mark.parametrize(("layer", "at"), [
    (nn.ReLU(), lambda x: np.maximum(x, 0)), (nn.Tanh(), np.tanh), (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    (nn.Softmax(), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
])  # fmt: skip
def test_activations(backend: Backend, layer: nn.Module, at: Callable[[np.ndarray], np.ndarray]) -> None:
    x = np.array([[-2.0, 0.0, 3.0]])
    np.testing.assert_allclose(layer(gpucnn.tensor(x)).numpy(), at(x), rtol=1e-12)


def test_the_sigmoid_does_not_overflow(backend: Backend) -> None:
    assert nn.Sigmoid()(gpucnn.tensor([-1000.0, 1000.0])).tolist() == [0, 1]


def test_losses(backend: Backend) -> None:
    logits, p = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 1.0]]), np.array([0.2, 0.7])
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = -(log_softmax[0, 2] + log_softmax[1, 0]) / 2
    for target in (gpucnn.tensor([2, 0]), gpucnn.tensor(np.eye(3)[[2, 0]])):
        assert nn.CrossEntropyLoss()(gpucnn.tensor(logits), target).item() == pytest.approx(wanted)
    target = gpucnn.tensor(np.array([0.0, 1.0]))
    squared, entropy = F.mse_loss(gpucnn.tensor(p), target), F.binary_cross_entropy(gpucnn.tensor(p), target)
    assert squared.item() == pytest.approx((0.04 + 0.09) / 2)
    assert entropy.item() == pytest.approx(-(np.log(0.8) + np.log(0.7)) / 2)


def test_sgd(backend: Backend) -> None:
    p = nn.Parameter(gpucnn.tensor([1.0]))
    (p * p).sum().backward()
    optim.SGD([p], lr=0.25).step()
    assert p.tolist() == [0.5]


def test_a_model_prints_itself() -> None:
    said = repr(models.conv_mlp())
    assert said.splitlines()[:2] == ["Sequential(", "  (0): Conv2d(1, 16, kernel_size=(3, 3))"]
    assert "(2): Dropout(p=0.2)" in said


def test_a_model_trains_and_is_tested() -> None:
    gpucnn.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    images = rng.random((40, 1, 8, 8)).astype(np.float32) + labels[:, None, None, None]
    loader = Loader(ArrayDataset(images, labels), gpucnn.get_backend("cpu"), Normalisation((1.0,), (0.5,)))
    with gpucnn.use("cpu"):
        net = models.conv_mlp(2, 1, 8, channels=2, hidden=8)
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    for epoch in range(5):
        order = loader.order(0, epoch)
        for first in range(0, 40, 2):
            train_step(net, nn.CrossEntropyLoss(), optimizer, *loader.batch(order[first : first + 2]))
    assert evaluate(net, loader).accuracy == 1


def test_targets_as_integers_or_one_hot_give_one_gradient(backend: Backend) -> None:
    logits, gradients = np.random.default_rng(0).standard_normal((4, 3)), []
    for target in (np.array([2, 0, 1, 1]), np.eye(3)[[2, 0, 1, 1]]):
        x = gpucnn.tensor(logits, requires_grad=True)
        F.cross_entropy(x, gpucnn.tensor(target)).backward()
        assert x.grad is not None
        gradients.append(x.grad.numpy())
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, (softmax - np.eye(3)[[2, 0, 1, 1]]) / 4, atol=1e-15)


def test_backward_starts_from_a_scalar(backend: Backend) -> None:
    x = gpucnn.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(GpucnnError, match="backward"):
        (x * 2).backward()


def test_batches_are_drawn_in_another_order_each_epoch() -> None:
    loader = Loader(small_splits(20, 10).train, gpucnn.get_backend("cpu"), Normalisation((0.0,), (1.0,)))
    orders = [loader.order(0, epoch).tolist() for epoch in (0, 1, 0)]
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]
    assert sorted(orders[1]) == list(range(len(orders[1])))


class Model(nn.Module):
    """A network of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, 4, 3), Doubled(), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 2)])

    def forward(self, x: gpucnn.Tensor) -> gpucnn.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class SquaredLoss(nn.Module):
    """A loss of one's own: of the probabilities."""

    def forward(self, output: gpucnn.Tensor, target: gpucnn.Tensor) -> gpucnn.Tensor:
        one_hot = (target.unsqueeze(1) == gpucnn.arange(2).unsqueeze(0)).float()
        return ((F.softmax(output, dim=1) - one_hot) ** 2).sum(dim=1).mean()


def test_data_set_layer_model_loss_and_optimizer_of_ones_own_train_together() -> None:
    gpucnn.manual_seed(0)
    data, net = Rings(60), Model()
    loader = Loader(data, gpucnn.get_backend("cpu"), Normalisation.of(data))
    optimizer = Descent(net.named_parameters(), {"lr": 0.1})
    loop = Loop(net, SquaredLoss(), optimizer, loader.batches(10, seed=0), [Accuracy()])
    history = loop.run(epochs=5)
    assert history[-1]["accuracy"] == 1
    assert history[-1]["loss"] < history[0]["loss"] / 2


def test_networks_of_sequences_in_the_classifier() -> None:
    """(N, C, L) comes as an image of C rows; flattening the first two axes makes the channels of it again."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = rng.standard_normal((80, 3, 20)).astype(np.float32)
    x[:, 1] += np.where(y, 1, -1)[:, None] * np.sin(np.arange(20))
    net = nn.Sequential(
        nn.Flatten(1, 2), nn.Conv1d(3, 6, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6 * 8, 2)
    )
    classifier = gpucnn.Classifier(net, epochs=6, batch_size=10, device="cpu").fit(x, np.eye(2)[y])
    assert classifier.score(x, y) > 0.95
    assert net(gpucnn.tensor(x[:, None])).shape == (80, 2)


def test_the_script(run_script: Callable[..., str], tiny_mnist: Path) -> None:
    said = run_script("system_4", "--data", tiny_mnist, "--epochs", 1)
    assert "mean of 1: test accuracy 0." in said
    assert "0.926" in said


@pytest.mark.slow
def test_the_published_run(accuracy_on_mnist: Callable[[str], float]) -> None:
    assert accuracy_on_mnist("system_4") >= 0.926
