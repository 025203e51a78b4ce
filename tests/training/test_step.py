"""One training step."""

from __future__ import annotations

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.backend import Backend
from gpucnn.training import train_step


def batch(seed: int = 0) -> tuple[gpucnn.Tensor, gpucnn.Tensor]:
    rng = np.random.default_rng(seed)
    x = gpucnn.tensor(rng.standard_normal((8, 1, 28, 28)).astype(np.float32))
    return x, gpucnn.tensor(rng.integers(0, 10, 8))


@pytest.mark.bits
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_step_is_the_loop_written_out(backend: Backend, optimizer: str) -> None:
    nets = []
    for by_hand in (False, True):
        gpucnn.manual_seed(3)
        net, loss_fn = models.lenet(), nn.CrossEntropyLoss()
        update = getattr(optim, optimizer)(net.parameters(), lr=0.01)
        losses = []
        for seed in range(3):
            x, y = batch(seed)
            if by_hand:
                update.zero_grad()
                loss = loss_fn(net(x), y)
                loss.backward()
                update.step()
            else:
                loss, _ = train_step(net, loss_fn, update, x, y)
            losses.append(loss.item())
        nets.append((losses, {name: value.tobytes() for name, value in net.state_dict().items()}))
    assert nets[0] == nets[1]


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "Adagrad", "RMSprop", "Adadelta"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_changes_no_parameter_and_no_state(
    backend: Backend, optimizer: str, bad: float
) -> None:
    gpucnn.manual_seed(3)
    net, loss_fn = models.lenet(), nn.CrossEntropyLoss()
    update = getattr(optim, optimizer)(net.named_parameters(), lr=0.1)
    train_step(net, loss_fn, update, *batch())
    before, state = net.state_dict(), update.state_dict()
    x, y = batch(1)
    loss, _ = train_step(net, loss_fn, update, x + bad, y)
    assert not np.isfinite(loss.item())
    after, state_after = net.state_dict(), update.state_dict()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    counts = {name for name in state["state"] if name.startswith("step.")}
    if backend.name == "cpu":
        assert state_after["steps"] == 1
    else:  # which does not wait for the device to know
        state_after["state"] |= {name: state["state"][name] for name in counts}
    assert all(values.tobytes() == state_after["state"][name].tobytes() for name, values in state["state"].items())
    assert set(state["state"]) - counts or optimizer == "SGD"
    train_step(net, loss_fn, update, x, y)
    assert all(np.isfinite(value).all() for value in net.state_dict().values()), "and the next step is a good one"


@pytest.mark.bits
def test_after_a_flagged_step_training_goes_on_as_if_it_had_not_been(backend: Backend) -> None:
    if backend.name != "cpu":
        pytest.skip("a GPU counts the flagged step: Adam's bias correction is one step ahead")
    ends = []
    for flagged in (False, True):
        gpucnn.manual_seed(3)
        net, loss_fn = models.lenet(), nn.CrossEntropyLoss()
        update = optim.Adam(net.named_parameters(), lr=0.01)
        train_step(net, loss_fn, update, *batch(0))
        if flagged:
            x, y = batch(1)
            train_step(net, loss_fn, update, x + float("nan"), y)
        train_step(net, loss_fn, update, *batch(2))
        ends.append({name: values.tobytes() for name, values in net.state_dict().items()})
    assert ends[0] == ends[1]
