"""``gpucnn.capture``: replays give the bits of ordinary steps, and each trap of recorded steps is noticed or avoided.

On the stand-in for CuPy, whose streams refuse while they capture what CuPy's and CUDA's refuse, and on a GPU where there
is one; on the CPU the function is called as it is.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from captured_steps import Step, batches, descent, on_devices, simple, small, trained

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor, models, nn, optim
from gpucnn.backend import Backend
from gpucnn.captured import MOST_GRAPHS


def particular(parameters: Any) -> optim.Optimizer:
    """Parameters with rates and decay of their own, one frozen: several updates in a step, over stretches."""
    first, *rest = parameters
    first.configure(lr_multiplier=0.1, l1=0.01)
    rest[-1].configure(l2=0.1)
    rest[1].configure(frozen=True)
    return optim.AdamW([{"params": [first, *rest[:2]]}, {"params": rest[2:], "weight_decay": 0.2}])


OPTIMIZERS: dict[str, Any] = {
    "parameters of their own kind": particular,
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
    "momentum": lambda p: optim.SGD(p, 0.01, 0.9),
    "nesterov, decay": lambda p: optim.SGD(p, 0.01, 0.9, 0.1, True),
    "Adagrad": lambda p: optim.Adagrad(p, 0.01, lr_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "Adadelta": optim.Adadelta,
}


@pytest.mark.bits
@on_devices
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make", [lambda: models.build("lenet"), small], ids=["lenet", "dropout and batch norm"])
def test_replays_are_ordinary_steps_bit_for_bit(backend: Backend, name: str, make: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would say that nothing was recorded
        captured = trained(make, OPTIMIZERS[name], captured=True)
    for ours, theirs in zip(captured, trained(make, OPTIMIZERS[name], captured=False), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def gradients_forgotten_last(net: nn.Module, optimizer: optim.Optimizer) -> Step:
    def step(x: Tensor) -> Tensor:
        loss = (net(x) * net(x)).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def two_updates(net: nn.Module, optimizer: optim.Optimizer) -> Step:
    def step(x: Tensor) -> Tensor:
        for _ in range(2):
            optimizer.zero_grad()
            loss = (net(x) * net(x)).sum()
            loss.backward()
            optimizer.step()
        return loss

    return step


def no_update(net: nn.Module, optimizer: optim.Optimizer) -> Step:
    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        optimizer.step()
        return net(x)

    return step


@pytest.mark.bits
@on_devices
@pytest.mark.parametrize("make", [descent, gradients_forgotten_last, two_updates, no_update])
def test_every_order_of_a_step(backend: Backend, make: Any) -> None:
    def run(captured: bool) -> list[Any]:
        gpucnn.manual_seed(4)
        net = nn.Linear(3, 2)
        optimizer = optim.Adam(net.parameters(), 0.01)
        x = gpucnn.tensor(np.ones((4, 3), np.float32))
        plain = make(net, optimizer)
        step: Step = gpucnn.capture(plain, state=[net, optimizer]) if captured else plain
        found = [step(x).numpy() for _ in range(4)]
        return [*found, net.weight.numpy(), optimizer.steps, *optimizer.state_dict()["state"].values()]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured = run(True)
    for ours, theirs in zip(captured, run(False), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.bits
@on_devices
def test_gradients_clipped_between(backend: Backend) -> None:
    def run(captured: bool) -> list[Any]:
        gpucnn.manual_seed(2)
        net, optimizer, x = simple(backend)

        def plain(x: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = (net(x) * net(x)).sum()
            loss.backward()
            norm = optim.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            return norm

        step: Step = gpucnn.capture(plain, state=[net, optimizer]) if captured else plain
        return [*(step(x).numpy() for _ in range(4)), net.weight.numpy()]

    for ours, theirs in zip(run(True), run(False), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@on_devices
def test_a_step_whose_loss_is_not_finite_changes_nothing(backend: Backend) -> None:
    with_fault = trained(lambda: models.build("lenet"), optim.Adam, captured=True, wrong=2)
    for ours, theirs in zip(
        with_fault, trained(lambda: models.build("lenet"), optim.Adam, captured=False, wrong=2), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isnan(with_fault[4])
    assert np.isfinite(with_fault[6])


def test_on_the_cpu_the_function_is_called() -> None:
    with gpucnn.use("cpu"):
        net, optimizer, x = simple(gpucnn.get_backend("cpu"))
        calls = []

        def step(x: Tensor) -> Tensor:
            calls.append(x)
            return net(x)

        captured = gpucnn.capture(step, optimizer)
        for _ in range(3):
            assert captured(x).requires_grad
        assert [one is x for one in calls] == [True] * 3


def test_a_replay_is_one_launch_of_a_graph_and_moves_nothing(standin: Any) -> None:
    with gpucnn.use(standin):
        net = models.build("lenet")
        optimizer = optim.Adam(net.parameters())

        def plain(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step = gpucnn.capture(plain, state=[net, optimizer])
        given = batches(4)
        for x, y in given[:3]:
            step(x, y)
        counters = standin.xp.standin
        with counters.launches.counted() as launches, counters.transfers.counted() as transfers:
            step(*given[3])
    assert transfers.total == 0
    # The batch copied in, the loss copied out; the rate is there already.
    assert launches == {"copy_pieces": 2, "setitem": 1, "graph": 1}


@on_devices
def test_a_tensor_that_the_step_changes_in_place(backend: Backend) -> None:
    def run(captured: bool) -> list[Any]:
        gpucnn.manual_seed(6)
        net, optimizer, x = simple(backend)
        total, count = gpucnn.tensor(0.0), gpucnn.tensor(0)
        descend = descent(net, optimizer)

        def plain(times: int) -> None:
            total.copy_(total + descend(x).detach() * times)
            count.copy_(count + 1)

        step: Step = gpucnn.capture(plain, net, optimizer, total, count) if captured else plain
        found: list[Any] = []
        for times in (1, 2, 1, 1, 2):
            step(times)
            found += [total.item(), count.item()]
        return [*found, net.weight.numpy()]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured = run(True)
    for ours, theirs in zip(captured, run(False), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_step_without_a_tensor_among_its_arguments_is_recorded_where_its_parameters_are(standin: Backend) -> None:
    with gpucnn.use(standin):
        net, optimizer, x = simple(standin)
        descend = descent(net, optimizer)
        step = gpucnn.capture(lambda: descend(x), net, optimizer)
    with gpucnn.use("cpu"):
        losses = [step().item() for _ in range(3)]
    assert all(one is not None for one in step._variants.values())
    assert step._variants
    assert losses == sorted(losses, reverse=True)


# --- traps ---------------------------------------------------------------------------------------------------------------


@on_devices
def test_results_stay_when_the_next_replay_fills_the_same_memory(backend: Backend) -> None:
    net, optimizer, x = simple(backend)
    step = gpucnn.capture(descent(net, optimizer), state=[net, optimizer])
    losses = [step(x) for _ in range(5)]
    assert len({loss.item() for loss in losses}) == 5
    assert losses == sorted(losses, key=float, reverse=True)


@on_devices
def test_each_call_reads_its_own_input_and_leaves_it(backend: Backend) -> None:
    net, optimizer, _ = simple(backend)
    double = gpucnn.capture(lambda x: x * 2, net)
    inputs = [gpucnn.tensor([[float(i), 2, 3]]) for i in range(4)]
    assert [double(x).tolist()[0][0] for x in inputs] == [0, 2, 4, 6]
    assert [x.tolist()[0][0] for x in inputs] == [0, 1, 2, 3]
    transposed = gpucnn.tensor([[1.0, 5], [2, 6], [3, 7]]).transpose(1, 0)
    assert double(gpucnn.tensor([[0.0, 0, 0], [0, 0, 0]])).shape == (2, 3)
    assert double(transposed).tolist() == [[2, 4, 6], [10, 12, 14]]


@on_devices
def test_every_shape_dtype_and_value_has_a_recording_of_its_own(backend: Backend) -> None:
    net, optimizer, _ = simple(backend)

    def step(x: Tensor, times: int, how: str = "up") -> Tensor:
        return x * times if how == "up" else x / times

    captured = gpucnn.capture(step, net)
    for _ in range(3):
        for times, how in itertools.product((2, 4), ("up", "down")):
            for dtype, size in itertools.product(("float32", "float64"), (1, 2)):
                y = captured(gpucnn.tensor(np.full(size, 8.0, dtype)), times, how)
                assert (str(y.dtype), y.tolist()) == (dtype, [8.0 * times if how == "up" else 8.0 / times] * size)
    assert len(captured._variants) == MOST_GRAPHS == 16
    with pytest.warns(UserWarning, match="step runs as usual, because it has more than 16 variants"):
        assert captured(gpucnn.tensor([1.0, 1, 1]), 2).tolist() == [2, 2, 2]
    assert len(captured._variants) == MOST_GRAPHS


@on_devices
def test_mode_trainable_parameters_and_hyper_parameters_are_looked_at(backend: Backend) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    optimizer = optim.SGD(net.parameters(), 0.1, momentum=0.9)
    plain = descent(net, optimizer)
    step = gpucnn.capture(plain, state=[net, optimizer])
    x = gpucnn.tensor(np.ones((4, 3), np.float32))
    for _ in range(3):
        step(x)
    net.eval()
    assert len({round(float((net(x) * net(x)).sum()), 3) for _ in range(2)}) == 1
    expected = float((net(x) * net(x)).sum())
    assert step(x).item() == pytest.approx(expected, rel=1e-5)
    weight = net[0].weight  # type: ignore[index]
    before = weight.numpy()
    for parameter in net[0].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    for _ in range(3):
        step(x)
    assert np.array_equal(weight.numpy(), before)
    count = len(step._variants)
    for changed in ({"lr": 0.05}, {"momentum": 0.5}):
        optimizer.param_groups[0].update(changed)
        step(x)
        assert len(step._variants) == count
    for changed in ({"weight_decay": 0.1}, {"nesterov": True}, {"nesterov": False, "momentum": 0.0}):
        optimizer.param_groups[0].update(changed)
        step(x)
        count += 1
        assert len(step._variants) == count
