"""Optimisers of one's own, as PyTorch's programs write them; groups that are added later."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend
from gpucnn.errors import CheckpointError, GpucnnError, ParameterError
from gpucnn.training import Loop, train_step

torch = pytest.importorskip("torch")


def momentum_of(base: Any, no_grad: Any, zeros_like: Any) -> Any:
    """Return a class of PyTorch's style on either library: descent with momentum, state by parameter."""

    class Momentum(base):  # type: ignore[misc]
        def __init__(self, params: Any, lr: float, momentum: float = 0.9) -> None:
            super().__init__(params, {"lr": lr, "momentum": momentum})

        @no_grad()  # type: ignore[untyped-decorator]
        def step(self) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    if "velocity" not in state:
                        state["velocity"] = zeros_like(p)
                    state["velocity"].mul_(group["momentum"]).add_(p.grad)
                    p.add_(state["velocity"], alpha=-group["lr"])

    return Momentum


OURS = momentum_of(optim.Optimizer, gpucnn.no_grad, lambda p: gpucnn.zeros_like(p))
THEIRS = momentum_of(torch.optim.Optimizer, torch.no_grad, torch.zeros_like)


def test_pytorchs_own_class_steps_as_on_pytorch(backend: Backend) -> None:
    start = np.random.default_rng(0).standard_normal((3, 4))
    mine, theirs = nn.Parameter(gpucnn.tensor(start)), torch.nn.Parameter(torch.tensor(start))
    own, reference = OURS([mine], lr=0.05), THEIRS([theirs], lr=0.05)
    for step in range(6):
        for group in (own.param_groups[0], reference.param_groups[0]):
            group["lr"] = 0.05 / (step + 1)
        own.zero_grad(), reference.zero_grad()
        (mine**2).sum().backward(), (theirs**2).sum().backward()
        own.step(), reference.step()
    np.testing.assert_allclose(mine.numpy(), theirs.detach().numpy(), rtol=1e-12)


def test_it_equals_our_own_sgd_in_a_loop_and_in_train_step() -> None:
    rng = np.random.default_rng(0)
    x, y = gpucnn.tensor(rng.standard_normal((8, 3)).astype(np.float32)), gpucnn.tensor(rng.integers(0, 2, 8))
    ends = []
    for make in (OURS, lambda params, lr: optim.SGD(params, lr, momentum=0.9)):
        gpucnn.manual_seed(1)
        net = nn.Linear(3, 2)
        Loop(net, nn.CrossEntropyLoss(), make(net.parameters(), lr=0.1), [(x, y)] * 4).run(2)
        train_step(net, nn.CrossEntropyLoss(), make(net.parameters(), lr=0.1), x, y)
        ends.append(net.state_dict())
    for name, values in ends[0].items():
        np.testing.assert_allclose(values, ends[1][name], rtol=1e-5, atol=1e-7)


def test_data_is_assigned_in_pytorchs_older_style(backend: Backend) -> None:
    p = nn.Parameter(gpucnn.tensor([1.0, 2.0]))
    optimizer = optim.SGD([p], lr=1.0)
    p.data -= 0.5 * gpucnn.ones(2)
    p.data = p.data * 2
    assert p.tolist() == [1.0, 3.0]
    assert p.requires_grad
    p.sum().backward()
    optimizer.step()
    assert p.tolist() == [0.0, 2.0], "the optimiser's memory is the parameter's still"
    p.data.zero_()
    assert p.tolist() == [0.0, 0.0]
    assert gpucnn.ones(2).mul_(4).div_(2).sub_(1.0, alpha=0.5).tolist() == [1.5, 1.5]


def test_values_that_take_part_in_gradients_are_not_changed_in_place() -> None:
    p = nn.Parameter(gpucnn.ones(2))
    for change in (lambda: p.add_(1.0), lambda: p.zero_(), lambda: p.mul_(2.0)):
        with pytest.raises(GpucnnError, match="in place"):
            change()


def test_a_group_that_is_added_later_is_trained_with_its_own_rate(backend: Backend) -> None:
    first, second = (nn.Parameter(gpucnn.ones(2)) for _ in range(2))
    optimizer = optim.SGD([("first", first)], lr=0.5, momentum=0.9)
    optimizer.add_param_group({"params": [("second", second)], "lr": 0.25})
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    assert optimizer.param_groups[1]["params"][0] is second
    (first.sum() + second.sum()).backward()
    optimizer.step()
    assert first.tolist() == [0.5, 0.5]
    assert second.tolist() == [0.75, 0.75]
    state = optimizer.state_dict()
    assert [group["lr"] for group in state["param_groups"]] == [0.5, 0.25]
    assert "params" not in state["param_groups"][0]
    assert set(state["state"]) == {"momentum_buffer.first", "momentum_buffer.second"}


@pytest.mark.parametrize(
    "group",
    [
        {"lr": 0.1},
        [],
        {"params": [1]},
        {"params": "first", "lr": 0.1},
        {"params": [("first", nn.Parameter(gpucnn.ones(1)))]},
        {"params": [("new", nn.Parameter(gpucnn.ones(1)))], "rate": 1},
        {"params": [("new", nn.Parameter(gpucnn.ones(1)))], "lr": -1},
    ],
)
def test_a_wrong_group_changes_nothing(group: Any) -> None:
    optimizer = optim.SGD([("first", nn.Parameter(gpucnn.ones(1)))], lr=0.1)
    with pytest.raises(ParameterError):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == len(optimizer.state_dict()["param_groups"]) == 1


def test_a_parameter_twice_is_refused() -> None:
    p = nn.Parameter(gpucnn.ones(1))
    optimizer = optim.SGD([p], lr=0.1)
    with pytest.raises(ParameterError, match="once"):
        optimizer.add_param_group({"params": [p]})


def test_a_copy_has_copies_of_the_parameters_in_its_groups() -> None:
    p = nn.Parameter(gpucnn.ones(2))
    optimizer = optim.SGD([p], lr=0.5)
    twin = copy.deepcopy(optimizer)
    inside = twin.param_groups[0]["params"][0]
    assert inside is not p
    inside.sum().backward()
    twin.step()
    assert inside.tolist() == [0.5, 0.5]
    assert p.tolist() == [1.0, 1.0]


def test_its_state_is_in_its_state_dict(backend: Backend) -> None:
    def steps(parameter: nn.Parameter, optimizer: Any, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()

    start = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    whole = nn.Parameter(gpucnn.tensor(start, device=backend))
    optimizer = OURS([("a.weight", whole)], lr=0.05)
    steps(whole, optimizer, 3)
    optimizer.state[whole] |= {"count": 3, "share": 0.5, "on": True, "scalar": gpucnn.tensor(2.0)}
    saved, values = optimizer.state_dict(), whole.numpy()
    assert {type(array) for array in saved["state"].values()} == {np.ndarray}
    steps(whole, optimizer, 2)

    resumed = nn.Parameter(gpucnn.tensor(values, device=backend))
    again = OURS([("a.weight", resumed)], lr=0.05)
    again.load_state_dict(saved)
    kept = again.state[resumed]
    assert (kept["count"], kept["share"], kept["on"], kept["scalar"].item()) == (3, 0.5, True, 2.0)
    assert type(kept["count"]) is int
    steps(resumed, again, 2)
    np.testing.assert_array_equal(resumed.numpy(), whole.numpy())


def test_state_that_cannot_be_saved_or_is_anothers() -> None:
    parameter = nn.Parameter(gpucnn.tensor([1.0]))
    optimizer = OURS([("w", parameter)], lr=0.1)
    optimizer.state[parameter]["words"] = ["a"]
    with pytest.raises(
        ParameterError, match=r"state\[w\]: words: expected a Tensor or a number, to be saved, got list"
    ):
        optimizer.state_dict()
    optimizer.state[parameter] = {"a:b": 1}
    with pytest.raises(ParameterError, match="a text without ':'"):
        optimizer.state_dict()
    optimizer.state[parameter] = {"count": 1}
    saved = optimizer.state_dict()
    with pytest.raises(CheckpointError, match="the same optimiser and model"):
        OURS([("other", nn.Parameter(gpucnn.tensor([1.0])))], lr=0.1).load_state_dict(saved)
