"""``gpucnn.capture``: replays give the bits of ordinary steps, and each trap of recorded steps is noticed or avoided.

On the stand-in for CuPy, whose streams refuse while they capture what CuPy's and CUDA's refuse, and on a GPU where there
is one; on the CPU the function is called as it is.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor, models, nn, optim
from gpucnn.backend import Backend, default_generator
from gpucnn.captured import MOST_GRAPHS, Captured
from gpucnn.errors import OutOfMemoryError, ParameterError, ShapeError
from gpucnn.training import train_step

DEVICES = ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)]
on_devices = pytest.mark.parametrize("backend", DEVICES, indirect=True)
Step = Callable[..., Any]


def batches(count: int, size: int = 4, channels: int = 1, pixels: int = 28) -> list[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(5)
    shape = (size, channels, pixels, pixels)
    return [
        (gpucnn.tensor(rng.standard_normal(shape).astype(np.float32)), gpucnn.tensor(rng.integers(0, 10, size)))
        for _ in range(count)
    ]


def trained(
    make: Callable[[], nn.Module], make_optimizer: Any, captured: bool, count: int = 4, wrong: int | None = None
) -> list[Any]:
    """Return all losses, weights, buffers and optimiser state of a few steps, with a rate and a momentum that change."""
    gpucnn.manual_seed(11)
    net = make()
    optimizer = make_optimizer(net.parameters())
    loss_fn = nn.CrossEntropyLoss()

    def plain(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return train_step(net, loss_fn, optimizer, x, y)

    step: Step = gpucnn.capture(plain, state=[net, optimizer]) if captured else plain
    found: list[Any] = []
    for i, (x, y) in enumerate(batches(count)):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + i)
            if "betas" in group:
                group["betas"] = (0.95 - 0.02 * i, group["betas"][1])
            elif group.get("momentum"):
                group["momentum"] = 0.9 - 0.02 * i
        if i == wrong:
            x = x * float("nan")
        loss, logits = step(x, y)
        found += [loss.numpy(), logits.numpy()]
    if isinstance(step, Captured):
        assert len(step._variants) <= 2, "before the first gradients, and after"
    state = optimizer.state_dict()
    return [*found, *net.state_dict().values(), *state["state"].values(), state["steps"], default_generator.counter]


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(0.4), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip


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


def descent(net: nn.Module, optimizer: optim.Optimizer) -> Step:
    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (net(x) * net(x)).sum()
        loss.backward()
        optimizer.step()
        return loss

    return step


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


def simple(backend: Backend) -> tuple[nn.Linear, optim.Optimizer, Tensor]:
    net = nn.Linear(3, 2)
    return net, optim.SGD(net.parameters(), 0.01), gpucnn.tensor(np.ones((4, 3), np.float32))


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
UNRECORDABLE: dict[str, tuple[str, Callable[[nn.Linear, Tensor], Tensor]]] = {
    "a value that is read": ("CUDARuntimeError", lambda net, x: net(x) * net(x).sum().item()),
    "a condition on a value": ("CUDARuntimeError", lambda net, x: net(x) if net(x).sum() > 0 else net(x) * 2),
    "an array of the host": ("CUDARuntimeError", lambda net, x: net(x) + gpucnn.tensor(np.ones(2, np.float32))),
    "a boolean mask": ("CUDARuntimeError", lambda net, x: net(x)[net(x) > 0].sum()),
    "waiting": ("CUDARuntimeError", lambda net, x: net(x) if x.backend.synchronize() is None else x),  # type: ignore[func-returns-value]
    "a product by cuBLAS": (
        "NotImplementedError: calling cuBLAS", lambda net, x: net(x).to("float64") @ net(x).to("float64").transpose(1, 0)
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
