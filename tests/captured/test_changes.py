"""What may change between two replays (gradients, optimisers, attributes, seeds, memory) is noticed or captured anew."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from captured_steps import Step, descent, on_devices, simple

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor, nn, optim
from gpucnn.backend import Backend, default_generator
from gpucnn.errors import OutOfMemoryError, ParameterError, ShapeError


@on_devices
def test_gradients_that_are_left_are_added_to(backend: Backend) -> None:
    def run(captured: bool) -> list[Any]:
        gpucnn.manual_seed(1)
        net, optimizer, x = simple(backend)

        def plain(x: Tensor) -> Tensor:
            loss = (net(x) * net(x)).sum()
            loss.backward()
            return loss

        step: Step = gpucnn.capture(plain, optimizer) if captured else plain
        found: list[Any] = []
        for _ in range(4):
            step(x)
            assert net.weight.grad is not None
            found.append(net.weight.grad.numpy())
        optimizer.zero_grad()
        step(x)
        return [*found, net.weight.grad.numpy()]

    for ours, theirs in zip(run(True), run(False), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@on_devices
def test_gradients_of_parameters_without_an_optimiser(backend: Backend) -> None:
    net = nn.Linear(3, 2)
    x = gpucnn.tensor(np.ones((4, 3), np.float32))

    def plain(x: Tensor) -> Tensor:
        for parameter in net.parameters():
            parameter.grad = None
        loss = (net(x) * net(x)).sum()
        loss.backward()
        return loss

    step = gpucnn.capture(plain, state=[net])
    for _ in range(4):
        step(x)
        assert net.weight.grad is not None
        got = net.weight.grad.numpy()
        plain(x)
        np.testing.assert_array_equal(got, net.weight.grad.numpy())
        with gpucnn.no_grad():
            net.weight.copy_(net.weight * 0.5)


@on_devices
@pytest.mark.parametrize("names", [["weight", "bias"], ["weight"]], ids=["of the same", "of some"])
def test_a_new_optimiser_may_move_the_weights_and_is_recorded_anew(backend: Backend, names: list[str]) -> None:
    net, first, x = simple(backend)
    step = gpucnn.capture(descent(net, first), state=[net, first])
    losses = [step(x).item() for _ in range(3)]
    second = optim.SGD([getattr(net, name) for name in names], 0.01)
    again = gpucnn.capture(descent(net, second), state=[net, second])
    for one in (again, again, step, again, step, step):
        losses.append(one(x).item())
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


@on_devices
def test_a_gradient_that_is_held_stays_when_no_optimiser_is_there(backend: Backend) -> None:
    net = nn.Linear(3, 2)

    def plain(x: Tensor) -> None:
        net.zero_grad()
        (net(x) * net(x)).sum().backward()

    step = gpucnn.capture(plain, state=[net])
    held = []
    for i in range(4):
        step(gpucnn.tensor(np.full((4, 3), 1.0 + i, np.float32)))
        assert net.weight.grad is not None
        held.append((net.weight.grad, net.weight.grad.numpy()))
    for gradient, before in held:
        np.testing.assert_array_equal(gradient.numpy(), before)


@on_devices
def test_python_runs_while_it_is_recorded_and_not_in_a_replay(backend: Backend) -> None:
    net, _, x = simple(backend)
    calls = []

    def step(x: Tensor) -> Tensor:
        calls.append(1)
        return net(x)

    captured = gpucnn.capture(step, state=[net])
    for _ in range(5):
        captured(x)
    assert len(calls) == 2  # as usual, and to record it


@on_devices
def test_hooks_are_called_every_time(backend: Backend) -> None:
    net, _, x = simple(backend)
    captured, calls = gpucnn.capture(lambda x: net(x), state=[net]), []
    captured(x)
    handle = net.register_forward_hook(lambda module, inputs, output: calls.append(1))
    for _ in range(3):
        captured(x)
    assert len(calls) == 3
    handle.remove()
    captured(x)
    assert len(calls) == 3


@on_devices
def test_one_captured_step_inside_another(backend: Backend) -> None:
    net, optimizer, x = simple(backend)
    inner = gpucnn.capture(descent(net, optimizer), state=[net, optimizer])
    outer = gpucnn.capture(lambda x: inner(x) * 2, net, optimizer)
    losses = [outer(x).item() for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4


STRAY = itertools.count()
READS = "RuntimeError: the current stream is capturing"
UNRECORDABLE: dict[str, tuple[str, Callable[[nn.Linear, Tensor], Tensor]]] = {
    "a value that is read": (READS, lambda net, x: net(x) * net(x).sum().item()),
    "a condition on a value": (READS, lambda net, x: net(x) if net(x).sum() > 0 else net(x) * 2),
    "an array of the host": (READS, lambda net, x: net(x) + gpucnn.tensor(np.ones(2, np.float32))),
    "a boolean mask": (READS, lambda net, x: net(x)[net(x) > 0].sum()),
    "waiting": ("CUDARuntimeError", lambda net, x: net(x) if x.backend.synchronize() is None else x),  # type: ignore[func-returns-value]
    "a product that CuPy gives to cuBLAS": (
        "NotImplementedError: calling cuBLAS",
        lambda net, x: net(x).reshape(1, *net(x).shape) @ gpucnn.stack([net(x).transpose(1, 0)] * 2),  # broadcast
    ),
    "numbers by cuRAND": ("NotImplementedError: calling cuRAND", lambda net, x: F.dropout(net(x).to("float64"))),
    "a number that changes": ("ArithmeticError: its replay differs", lambda net, x: net(x) * next(STRAY)),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNRECORDABLE)
def test_what_cannot_be_recorded_runs_as_usual_with_a_warning(standin: Backend, kind: str) -> None:
    reason, function = UNRECORDABLE[kind]
    with gpucnn.use(standin):
        net, optimizer, x = simple(standin)

        def step(x: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = function(net, x).sum()
            loss.backward()
            optimizer.step()
            return loss

        captured = gpucnn.capture(step, state=[net, optimizer])
        before = net.weight.numpy()
        with pytest.warns(UserWarning, match=f"capture: .*step runs as usual, because {reason}"):
            captured(x)
        assert optimizer.steps == 1
        moved = net.weight.numpy()
        assert kind == "a number that changes" or not np.array_equal(moved, before)
        captured(x)  # says nothing more
        assert optimizer.steps == 2
        assert not standin.xp.cuda.get_current_stream().is_capturing()


def test_an_optimiser_that_is_not_in_the_state_is_named(standin: Backend) -> None:
    with gpucnn.use(standin):
        net, optimizer, x = simple(standin)

        def step(x: Tensor) -> Tensor:
            loss = net(x).sum()
            loss.backward()
            optimizer.step()
            return loss

        captured = gpucnn.capture(step, state=[net])
        with pytest.warns(UserWarning, match=r"it uses SGD, which capture does not know: add it to state=\[...\]"):
            captured(x)
        assert optimizer.steps == 1
        known = gpucnn.capture(step, optimizer)
        known(x)
        known(x)
        assert optimizer.steps == 3


@on_devices
def test_a_tensor_that_changes_and_is_not_named(backend: Backend) -> None:
    net, optimizer, x = simple(backend)
    total, weight, descend = gpucnn.tensor(0.0), net.weight, descent(net, optimizer)

    def step() -> Tensor:
        loss = descend(x).detach()
        total.copy_(total + loss)
        return weight.detach() * 1

    captured = gpucnn.capture(step, net, optimizer)
    with pytest.warns(UserWarning, match=r"it changes a Tensor that capture does not know: add it to state=\[...\]"):
        captured()
    first = total.item()
    captured()
    assert first < total.item() < 2 * first


@on_devices
def test_an_error_in_the_step_is_the_users_and_leaves_nothing_open(backend: Backend) -> None:
    net, _, x = simple(backend)
    captured = gpucnn.capture(lambda x: net(x), state=[net])
    with pytest.raises(ShapeError, match="3 features"):
        captured(gpucnn.tensor([[1.0, 2.0]]))
    assert captured(x).shape == (4, 2)
    assert backend.capture_state is None


@on_devices
def test_many_draws_and_seeds_set_between(backend: Backend) -> None:
    def run(captured: bool) -> list[Any]:
        gpucnn.manual_seed(3)
        own = gpucnn.Generator(5)
        net = nn.Sequential(*(nn.Dropout(0.01) for _ in range(70)), nn.Dropout(0.5, generator=own))
        x = gpucnn.tensor(np.ones((4, 30), np.float32))
        step: Step = gpucnn.capture(lambda x: net(x), state=[net]) if captured else lambda x: net(x)
        found = [step(x).numpy() for _ in range(3)]
        gpucnn.manual_seed(3)
        own.manual_seed(5)
        found += [step(x).numpy() for _ in range(2)]
        np.testing.assert_array_equal(found[0], found[3])
        F.dropout(x, 0.5)
        return [*found, step(x).numpy(), default_generator.counter, own.counter]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured = run(True)
    for ours, theirs in zip(captured, run(False), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@on_devices
def test_a_seed_set_within_the_step_is_not_captured(backend: Backend) -> None:
    net = nn.Dropout(0.5)

    def step(x: Tensor) -> Tensor:
        gpucnn.manual_seed(3)
        return net(x)

    captured = gpucnn.capture(step, state=[net])
    x = gpucnn.tensor(np.ones((4, 30), np.float32))
    gpucnn.manual_seed(1)
    with pytest.warns(UserWarning, match="CaptureError: capture: a generator is seeded, or drawn from on the host"):
        first = captured(x).numpy()
    np.testing.assert_array_equal(captured(x).numpy(), first)


@on_devices
def test_steps_that_change_nothing_are_not_counted(backend: Backend) -> None:
    """The bias correction of Adam is that of the steps that were made, on every device."""
    net, x = nn.Linear(3, 2), gpucnn.tensor(np.ones((4, 3), np.float32))
    optimizer = optim.Adam(net.parameters(), 0.01)

    def plain(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (net(x) * net(x)).sum()
        loss.backward()
        optimizer.step(where=loss.detach().isfinite())
        return loss.detach()

    step = gpucnn.capture(plain, state=[net, optimizer])
    for factor in (1, 1, float("nan"), 1, float("inf"), 1):
        step(x * factor)
    counts = [int(value) for name, value in optimizer.state_dict()["state"].items() if name.startswith("step.")]
    assert counts == [4, 4]


WRONG: dict[str, tuple[Any, str]] = {
    "no function": (lambda: gpucnn.capture(3), "expected a function, got int"),  # type: ignore[arg-type]
    "no state": (
        lambda: gpucnn.capture(lambda x: x, state=[{}]),
        "expected modules, optimisers, generators and Tensors, got dict",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_mistakes_are_named(kind: str) -> None:
    make, words = WRONG[kind]
    with pytest.raises(ParameterError, match=f"capture: (step|state): {words}"):
        make()


def test_an_argument_that_names_no_kind_of_step(standin: Backend) -> None:
    with gpucnn.use(standin):
        net, _, x = simple(standin)
        with pytest.raises(
            ParameterError, match="capture: an argument: expected a Tensor or a hashable value, got list"
        ):
            gpucnn.capture(lambda x, sizes: net(x), state=[net])(x, [1])


def test_without_a_state_it_runs_as_usual_with_one_warning(standin: Backend) -> None:
    with gpucnn.use(standin):
        net, optimizer, x = simple(standin)
        captured = gpucnn.capture(descent(net, optimizer))
        with pytest.warns(
            UserWarning, match=r"it has no state: pass what it reads and changes, capture\(step, state=\[net, opt"
        ):
            captured(x)
        captured(x)
        assert optimizer.steps == 2
        assert captured._variants == {}


@on_devices
def test_an_attribute_of_a_layer_is_looked_at(backend: Backend) -> None:
    net = nn.Sequential(nn.Linear(3, 200), nn.Dropout(0.5))
    x = gpucnn.tensor(np.ones((4, 3), np.float32))
    captured = gpucnn.capture(lambda x: net(x), state=[net])
    assert 0.2 < np.mean(captured(x).numpy() == 0) < 0.8
    net[1].p = 0.0  # type: ignore[index]
    for _ in range(2):
        np.testing.assert_array_equal(captured(x).numpy(), net(x).numpy())
        assert np.mean(captured(x).numpy() == 0) < 0.01


@on_devices
def test_a_buffer_that_is_replaced_is_read(backend: Backend) -> None:
    net = nn.BatchNorm2d(1).eval()
    x = gpucnn.tensor(np.ones((2, 1, 2, 2), np.float32))
    captured = gpucnn.capture(lambda x: net(x), state=[net])
    before = captured(x).numpy()
    net.running_mean = gpucnn.tensor([1.0])
    for _ in range(2):
        np.testing.assert_array_equal(captured(x).numpy(), 0 * before)


@on_devices
def test_a_layer_that_is_replaced_is_used(backend: Backend) -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    x = gpucnn.tensor(np.ones((4, 3), np.float32))
    captured = gpucnn.capture(lambda x: net(x), state=[net])
    captured(x)
    net.add_module("0", nn.Linear(3, 5))
    for _ in range(2):
        assert captured(x).shape == (4, 5)


def test_where_memory_is_too_small_for_a_recording_the_step_runs(
    standin: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpucnn.use(standin):
        net, optimizer, x = simple(standin)
        captured = gpucnn.capture(descent(net, optimizer), state=[net, optimizer])
        weight, bias = net.weight.numpy(), net.bias.numpy()

        def no_memory(self: Any, step: Any) -> Any:
            step()  # as far as it comes
            raise OutOfMemoryError("cuda:0: 8 bytes asked")

        monkeypatch.setattr("gpucnn.backend.cuda.graph.Graph.observe", no_memory)
        with pytest.warns(UserWarning, match="runs as usual, because OutOfMemoryError: cuda:0: 8 bytes asked"):
            captured(x)
        assert optimizer.steps == 1
        plain = nn.Linear(3, 2)
        with gpucnn.no_grad():
            plain.weight.copy_(gpucnn.tensor(weight))
            plain.bias.copy_(gpucnn.tensor(bias))
        descent(plain, optim.SGD(plain.parameters(), 0.01))(x)
        np.testing.assert_array_equal(net.weight.numpy(), plain.weight.numpy())
