"""Losses by name, class weights, label smoothing and clipping: as in PyTorch, or by definition; resumed to the same bits."""

from __future__ import annotations

import copy
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Raises, numbers, resumed, trainer, weights

import gpucnn
from gpucnn import Classifier, nn, optim
from gpucnn.data import ArrayDataset
from gpucnn.errors import ParameterError, UsageError
from gpucnn.training import InterruptedTraining, LossScale, Settings, train_step
from gpucnn.training.objective import LOSSES, balanced_weights, make_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4))
LABELS = np.array([0, 3, 1, 1, 2, 0])
WEIGHT = np.array([0.5, 2.0, 1.0, 3.0])

CHANGES: dict[str, dict[str, Any]] = {
    "loss": {"loss": "focal:gamma=1.5"},
    "weights": {"class_weights": "balanced"},
    "smoothing": {"label_smoothing": 0.1},
    "clipping": {"clip_norm": 0.05},
    "accumulation": {"accumulate": 3},
}


def theirs(name: str, x: Any, d: Any, weight: Any) -> Any:
    """Return PyTorch's loss of logits and class distributions that are not smoothed any more."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    if name == "cross-entropy":
        return F.cross_entropy(x, torch.tensor(LABELS), weight=weight, label_smoothing=0.2)
    p = F.softmax(x, 1)
    rows = {
        "focal": lambda: -(d * (1 - p) ** 2 * p.log()).sum(1),
        "bce": lambda: F.binary_cross_entropy_with_logits(x, d, reduction="none").mean(1),
        "mse": lambda: F.mse_loss(p, d, reduction="none").mean(1),
        "hinge": lambda: torch.clamp(1 - (2 * d - 1) * x, min=0).mean(1),
    }[name]()
    chosen = weight[torch.tensor(LABELS)]
    return (rows * chosen).sum() / chosen.sum()


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours = gpucnn.tensor(LOGITS, requires_grad=True)
    loss = make_loss(name, gpucnn.tensor(WEIGHT), 0.2)(ours, gpucnn.tensor(LABELS))
    loss.backward()
    x = torch.tensor(LOGITS, requires_grad=True)
    d = torch.nn.functional.one_hot(torch.tensor(LABELS), 4).double() * 0.8 + 0.2 / 4
    expected = theirs(name, x, d, torch.tensor(WEIGHT))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), x.grad.numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_labels_are_their_one_hot_distributions(name: str) -> None:
    one_hot = (LABELS[:, None] == np.arange(4)).astype(float)
    loss = make_loss(name, None, 0.1)
    a, b = (loss(gpucnn.tensor(LOGITS), gpucnn.tensor(y)).item() for y in (LABELS, one_hot))
    assert a == pytest.approx(b, rel=1e-12)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    labels = np.repeat(np.arange(3), [1, 5, 10])
    data = ArrayDataset(np.zeros((16, 4, 4), np.uint8), labels, ["a", "b", "c", "none"])
    found = balanced_weights(data)
    np.testing.assert_allclose(found[:3] * 4 / 3, compute("balanced", classes=np.arange(3), y=labels))
    assert found[3] == 1


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("norm", [0.01, 100.0])
def test_a_step_with_clipping_is_that_of_pytorch(norm: float, scaled: bool) -> None:
    torch = pytest.importorskip("torch")
    x, y = RNG.normal(size=(6, 5)).astype(np.float32), LABELS
    gpucnn.manual_seed(0)
    ours = nn.Linear(5, 4)
    their = torch.nn.Linear(5, 4)
    their.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    scale = LossScale(gpucnn.get_backend("cpu")) if scaled else None
    train_step(
        ours,
        nn.CrossEntropyLoss(),
        optim.SGD(ours.parameters(), lr=1.0),
        gpucnn.tensor(x),
        gpucnn.tensor(y),
        scale,
        norm,
    )
    update = torch.optim.SGD(their.parameters(), lr=1.0)
    torch.nn.functional.cross_entropy(their(torch.tensor(x)), torch.tensor(y)).backward()
    torch.nn.utils.clip_grad_norm_(their.parameters(), norm)
    update.step()
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(array, their.state_dict()[name].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.bits
@pytest.mark.parametrize("option", CHANGES)
def test_each_matters_and_is_resumed_to_the_same_bits(tmp_path: Path, option: str) -> None:
    changes = CHANGES[option]
    trainer(tmp_path / "whole", **changes).train()
    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(13, signal.SIGINT), **changes).train()
    resumed(tmp_path / "run", **changes).train()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    trainer(tmp_path / "plain").train()
    assert weights(tmp_path / "plain") != weights(tmp_path / "whole")
    key, value = next(iter(changes.items()))
    assert f"{key} = " in (tmp_path / "run" / "config.toml").read_text()
    with pytest.raises(UsageError, match=f"resume: {key}: expected {value}"):
        resumed(tmp_path / "run", epochs=3)


@pytest.mark.parametrize("option", CHANGES)
def test_a_classifier_takes_each(option: str) -> None:
    x, y = RNG.integers(0, 256, (40, 12, 12), np.uint8), np.repeat([0, 1], [10, 30])

    def learnt(**given: Any) -> Any:
        net = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
        return (
            Classifier(net, epochs=1, batch_size=8, optimizer="sgd", device="cpu", **given).fit(x, y).predict_proba(x)
        )

    gpucnn.manual_seed(0)
    plain = learnt()
    gpucnn.manual_seed(0)
    assert not np.array_equal(plain, learnt(**CHANGES[option]))


@pytest.mark.parametrize(
    "change",
    [{"loss": "crossentropy"}, {"class_weights": "equal"}, {"label_smoothing": 1.5}, {"label_smoothing": None},
     {"clip_norm": -1.0}],
)  # fmt: skip
def test_what_makes_no_sense_is_wrong_usage(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"settings: {next(iter(change))}"):
        Settings(**change).resolved()


def test_a_loss_of_ones_own_has_its_own_weights() -> None:
    with pytest.raises(ParameterError, match="Give the weights to the loss itself"):
        Classifier(loss=nn.CrossEntropyLoss(), label_smoothing=0.1).fit(np.zeros((4, 28, 28), np.uint8), [0, 1, 0, 1])
    with pytest.raises(UsageError, match="loss focal"):
        make_loss("focal:gamma=-1")
    with pytest.raises(UsageError, match="option"):
        make_loss("focal:gama=1")


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_parts_of_a_batch_add_up_to_the_step_of_the_whole(parts: int) -> None:
    x, y = gpucnn.tensor(RNG.normal(size=(6, 5))), gpucnn.tensor(LABELS)
    gpucnn.manual_seed(0)
    whole = nn.Linear(5, 4).to("float64")
    cut = copy.deepcopy(whole)
    a, b = (
        train_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.5), x, y, accumulate=n)
        for net, n in ((whole, 1), (cut, parts))
    )
    assert a[0].item() == pytest.approx(b[0].item(), rel=1e-12)
    np.testing.assert_allclose(a[1].numpy(), b[1].numpy(), rtol=1e-12)
    for name, array in whole.state_dict().items():
        np.testing.assert_allclose(array, cut.state_dict()[name], rtol=1e-10)
