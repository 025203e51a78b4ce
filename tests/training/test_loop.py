"""The loop: the same bits as one written by hand, with objects of a user's own, whatever stops it."""

from __future__ import annotations

import gc
import json
import math
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, nn, optim
from gpucnn.backend import Backend, default_generator
from gpucnn.data import ArrayDataset
from gpucnn.errors import DataError, DivergedError, ParameterError
from gpucnn.report.curves import series_of
from gpucnn.training import Accuracy, Callback, Loader, Loop, LossAndAccuracy, Metric, Normalisation, TopK

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (23, 1, 6, 6), np.uint8), RNG.integers(0, 3, 23)
PLAIN = Normalisation((0.5,), (0.25,))


def network() -> nn.Sequential:
    gpucnn.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3))


def loader(backend: Backend, count: int = 23) -> Loader:
    return Loader(ArrayDataset(IMAGES[:count], LABELS[:count], ["a", "b", "c"]), backend, PLAIN)


def state(net: nn.Module) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in net.state_dict().items()}


def pairs(backend: Backend) -> list[tuple[Tensor, Tensor]]:
    return [loader(backend).batch(np.arange(first, min(first + 5, 23))) for first in range(0, 23, 5)]


@pytest.mark.parametrize("given", ["loader", "tensors", "arrays"])
def test_it_is_the_loop_written_by_hand(backend: Backend, given: str) -> None:
    batches: Any = pairs(backend)
    by_hand = network()
    optimizer, loss_fn, losses = optim.Adam(by_hand.parameters(), lr=0.01), nn.CrossEntropyLoss(), []
    for _ in range(2):
        total = 0.0
        for x, y in batches:
            optimizer.zero_grad()
            loss = loss_fn(by_hand(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        losses.append(total / 23)
    net = network()
    if given == "loader":
        batches = loader(backend).batches(5)
    elif given == "arrays":
        batches = [(x.numpy(), y.numpy()) for x, y in batches]
    loop = Loop(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=0.01), batches)
    drawn = default_generator.seed, default_generator.counter
    history = loop.run(2)
    assert state(net) == state(by_hand)
    assert [values["loss"] for values in history] == pytest.approx(losses)
    assert (default_generator.seed, default_generator.counter) == drawn
    assert loop.step == 10


class Rows(Metric):
    """A user's own: how many rows came by."""

    def update(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        self.add([len(output)])

    def values(self) -> dict[str, Any]:
        return {"rows": self.sums.tolist()[0]}


class Noting(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, loop: Loop) -> None:
        self.notes.append(f"start {loop.step}")

    def step(self, loop: Loop, images: int) -> None:
        self.notes.append(f"step {images}")

    def epoch(self, loop: Loop, values: dict[str, Any]) -> None:
        self.notes.append(f"epoch {values['epoch']}")

    def finish(self, loop: Loop) -> None:
        self.notes.append(f"finish {loop.step}")


def test_metrics_callbacks_and_validation(backend: Backend) -> None:
    net, noting = network(), Noting()
    loop = Loop(
        net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), loader(backend).batches(10, seed=1),
        [LossAndAccuracy(), TopK(2), Rows()], [noting], validation=loader(backend, 9).batches(4),
    )  # fmt: skip
    history = loop.run(2)
    assert history is loop.history
    for values in history:
        assert list(values) == [
            "epoch", "loss", "accuracy", "top_2", "rows", "seconds", "images_per_second",
            "val_loss", "val_accuracy", "val_top_2", "val_rows",
        ]  # fmt: skip
        assert (values["rows"], values["val_rows"]) == (23, 9)
        assert 0 <= values["accuracy"] <= values["top_2"] <= 1
    steps = ["step 10", "step 10", "step 3"]
    assert noting.notes == ["start 0", *steps, "epoch 1", *steps, "epoch 2", "finish 6"]
    with gpucnn.no_grad():
        x, y = loader(backend).batch(np.arange(9))
        logits = net.eval()(x)
    assert history[-1]["val_accuracy"] == pytest.approx((logits.numpy().argmax(1) == y.numpy()).mean())
    assert history[-1]["val_loss"] == pytest.approx(nn.CrossEntropyLoss()(logits, y).item(), rel=1e-5)
    loop.run(3)
    assert [values["epoch"] for values in loop.history] == [1, 2, 3], "run goes on to a new total"


def test_a_loss_an_optimiser_and_a_network_of_the_users_own(backend: Backend) -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(gpucnn.tensor([0.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.slope

    class Descent:
        def __init__(self, parameters: Any) -> None:
            self.parameters = list(parameters)

        def zero_grad(self) -> None:
            for parameter in self.parameters:
                parameter.grad = None

        def step(self) -> None:
            with gpucnn.no_grad():
                for parameter in self.parameters:
                    parameter -= 0.1 * parameter.grad

    def squares(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 2).mean()

    x = np.array([[1.0], [2.0]], np.float32)
    net = Line()
    loop = Loop(net, squares, Descent(net.parameters()), [(x, 3 * x)])
    history = loop.run(30)
    assert net.slope.item() == pytest.approx(3, abs=1e-3)
    assert history[0]["loss"] == pytest.approx(22.5)
    assert set(history[0]) == {"epoch", "loss", "seconds", "images_per_second"}


@pytest.mark.parametrize("epochs", [True, 0, 1.5, None])
def test_epochs_are_a_number(epochs: Any) -> None:
    net = nn.Linear(1, 1)
    loop = Loop(net, nn.MSELoss(), optim.SGD(net.parameters(), lr=0.1), [(np.ones((1, 1), np.float32),) * 2])
    with pytest.raises(ParameterError, match="epochs: expected a positive int"):
        loop.run(epochs)


MISTAKES: dict[str, tuple[Callable[[Any, Any], dict[str, Any]], str]] = {
    "no network": (lambda net, o: {"net": 3}, "net: expected a Module, got int"),
    "no loss": (lambda net, o: {"loss": "mse"}, "loss: expected a function"),
    "no optimiser": (
        lambda net, o: {"optimizer": 0.1},
        "optimizer: expected an Optimizer, or an object with zero_grad",
    ),
    "no batches": (lambda net, o: {"batches": 5}, "batches: expected Loader.batches"),
    "batches that end": (
        lambda net, o: {"batches": iter([])},
        "starts anew each epoch, got list_iterator. Pass a list",
    ),
    "no metric": (
        lambda net, o: {"metrics": ["accuracy"]},
        "metrics: expected Metrics, got str. Subclass training.Metric",
    ),
    "no callback": (lambda net, o: {"callbacks": [print]}, "callbacks: expected Callbacks, got builtin"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    change, words = MISTAKES[name]
    net = nn.Linear(1, 1)
    given = {"net": net, "loss": nn.MSELoss(), "optimizer": optim.SGD(net.parameters(), lr=0.1), "batches": []}
    with pytest.raises(ParameterError, match=words):
        Loop(**{**given, **change(net, given["optimizer"])})


def test_batches_that_are_none_or_no_pairs() -> None:
    net = nn.Linear(1, 1)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(DataError, match="at least one batch"):
        Loop(net, nn.MSELoss(), optimizer, []).run(1)
    with pytest.raises(DataError, match="a pair"):
        Loop(net, nn.MSELoss(), optimizer, [np.ones((3, 1), np.float32)]).run(1)


def endless(net: nn.Module, *callbacks: Callback, epochs: int = 4) -> Loop:
    backend = next(net.parameters()).backend
    return Loop(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=0.01), loader(backend).batches(5, seed=0),
                [LossAndAccuracy()], callbacks)  # fmt: skip


class At(Callback):
    """Does something after a step."""

    def __init__(self, step: int, act: Callable[[Any], object]) -> None:
        self.at, self.act = step, act

    def step(self, loop: Loop, images: int) -> None:
        if loop.step == self.at:
            self.act(loop)


@pytest.mark.parametrize("step", [1, 5, 7])
def test_ctrl_c_lets_the_step_finish_and_the_loop_goes_on_from_there(backend: Backend, step: int) -> None:
    whole = network()
    expected = endless(whole)
    expected.run(4)
    net, noting = network(), Noting()
    loop = endless(net, At(step, lambda _: signal.raise_signal(signal.SIGINT)), noting)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.run(4)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (loop.step, noting.notes[-1]) == (step, f"finish {step}")
    loop.run(4)
    assert state(net) == state(whole)
    assert [v["loss"] for v in loop.history] == [v["loss"] for v in expected.history]


def test_a_handler_of_the_programs_own_stays() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        endless(network(), At(2, lambda _: signal.raise_signal(signal.SIGINT))).run(1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == [signal.SIGINT]


@pytest.mark.parametrize("step", [2, 5, 8])
def test_stop_ends_it_and_it_goes_on(step: int) -> None:
    whole, net = network(), network()
    endless(whole).run(3)
    loop = endless(net, At(step, Loop.stop))
    loop.run(3)
    assert (loop.step, len(loop.history)) == (step, step // 5)
    loop.run(3)
    assert state(net) == state(whole)


def test_an_exception_ends_it_and_every_callback_hears_of_it() -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("mine")

    class Broken(Noting):
        def finish(self, loop: Loop) -> None:
            super().finish(loop)
            raise ValueError("late")

    noting, broken = Noting(), Broken()
    with pytest.raises(ValueError, match="late") as caught:
        endless(network(), broken, At(3, fail), noting).run(1)
    assert isinstance(caught.value.__context__, RuntimeError)
    assert (noting.notes[-1], broken.notes[-1]) == ("finish 3", "finish 3")


def test_a_loss_that_is_no_number_ends_it() -> None:
    net = network()
    loop = Loop(
        net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=1e30), loader(gpucnn.get_backend("cpu")).batches(5)
    )
    with (
        np.errstate(all="ignore"),
        pytest.raises(DivergedError, match=r"the loss is (nan|inf) .*smaller learning rate"),
    ):
        loop.run(2)
    assert loop.history == []


def test_state_goes_on_with_the_same_bits(backend: Backend) -> None:
    whole = network()
    expected = endless(whole)
    expected.run(3)
    net = network()
    first = endless(net, At(7, Loop.stop))
    first.run(3)
    twin = network()
    second = endless(twin, Callback())
    twin.load_state_dict(net.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.run(3)
    assert state(twin) == state(whole)
    numbers = [
        [{k: v for k, v in e.items() if k in ("epoch", "loss", "accuracy")} for e in one.history]
        for one in (second, expected)
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(("steps", "at"), [
    (10, []), (25, [10, 20]), (250, [50, 100, 150, 200]), (1000, list(range(100, 1000, 100))),
])  # fmt: skip
def test_the_loss_is_logged_five_times_an_epoch_and_every_hundred_steps(steps: int, at: list[int]) -> None:
    logged: list[dict[str, Any]] = []

    class Logging(Callback):
        def log(self, loop: Loop, values: dict[str, Any]) -> None:
            logged.append(values)

    net = nn.Linear(1, 1)
    batches = [(np.full((1, 1), i % 3, np.float32),) * 2 for i in range(steps)]
    Loop(net, nn.MSELoss(), optim.SGD(net.parameters(), lr=0.001), batches, callbacks=[Logging()]).run(2)
    assert [(v["step"], v["epoch"], v["lr"]) for v in logged] == [
        *((step, 1, 0.001) for step in at), *((steps + step, 2, 0.001) for step in at)
    ]  # fmt: skip
    assert [v["progress"] for v in logged] == pytest.approx([v["step"] / steps for v in logged])
    assert all(math.isfinite(v["loss"]) for v in logged)


def test_curves_within_an_epoch_are_the_means_of_its_parts() -> None:
    losses: list[float] = []
    metrics: list[dict[str, Any]] = []

    class Watching(Callback):
        def step(self, loop: Loop, images: int) -> None:
            losses.append(loop.metrics[0].last)  # type: ignore[attr-defined]

        def log(self, loop: Loop, values: dict[str, Any]) -> None:
            metrics.append(values)

    net = nn.Linear(1, 1)
    batches = [(np.full((1, 1), i % 7, np.float32),) * 2 for i in range(60)]
    Loop(net, nn.MSELoss(), optim.SGD(net.parameters(), lr=0.001), batches, callbacks=[Watching()]).run(2)
    (series,) = series_of(metrics, "loss")
    assert [x for x, _ in series.points] == pytest.approx([k / 5 for k in (1, 2, 3, 4, 6, 7, 8, 9)])
    parts = np.reshape(losses, (10, 12)).mean(1)
    assert [y for _, y in series.points] == pytest.approx(parts[[0, 1, 2, 3, 5, 6, 7, 8]].tolist())


def test_loops_in_threads_give_the_networks_of_their_seeds() -> None:
    nets = [network() for _ in range(6)]
    loops = [endless(net, Callback()) for net in nets]
    threads = [threading.Thread(target=loop.run, args=(3,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = network()
    endless(alone).run(3)
    assert [state(net) for net in nets] == [state(alone)] * 6


def test_a_loop_ends_with_its_last_reference() -> None:
    loop = endless(network())
    loop.run(1)
    gone = weakref.ref(loop)
    gc.disable()
    try:
        del loop
        assert gone() is None
    finally:
        gc.enable()


def test_accuracy_beside_the_loss(backend: Backend) -> None:
    net = network()
    one = Loop(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), pairs(backend), [Accuracy()])
    assert list(one.run(1)[0])[:3] == ["epoch", "loss", "accuracy"]
