"""Batches cut into shards: the update is that of the whole batch, and its parts are added in a tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Generator
from gpucnn.distributed import Communicator
from gpucnn.errors import ParameterError
from gpucnn.training import Accuracy, Loop, LossAndAccuracy, LossScale
from gpucnn.training.shards import Shards, TreeSum, draws_of


class Rank(Communicator):
    """A process of several that never meets the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def batches(sizes: list[int], seed: int = 0) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, n)) for n in sizes]


def network(*between: nn.Module) -> nn.Module:
    gpucnn.manual_seed(4)
    return nn.Sequential(nn.Conv2d(1, 4, 3), *between, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def loop_of(net: nn.Module, given: Any, shards: int, **options: Any) -> Loop:
    optimizer = optim.SGD(net.named_parameters(), lr=0.1)
    return Loop(net, nn.CrossEntropyLoss(), optimizer, given, [LossAndAccuracy()], shards=shards, **options)


def weights(net: nn.Module) -> Any:
    return np.concatenate([np.ravel(array) for array in net.state_dict().values()])


def test_every_process_has_its_own_run_of_shards() -> None:
    for size in (1, 2, 4, 8):
        for images in (0, 1, 5, 8, 13, 64):
            parts = [Shards(Rank(rank, size), 8).part(images) for rank in range(size)]
            assert [index for part in parts for index in range(part.start, part.stop)] == list(range(images))
        assert [shard for rank in range(size) for shard in Shards(Rank(rank, size), 8).own] == list(range(8))
    assert Shards(Rank(1, 2)).count == 2


@pytest.mark.parametrize("count", [0, 3, -4, 8192, 2.0, True, "4"])
def test_a_wrong_number_of_shards(count: Any) -> None:
    with pytest.raises(ParameterError, match="shards: count: expected a power of two up to 4096"):
        Shards(Communicator(), count)


def test_processes_that_do_not_divide_the_shards() -> None:
    with pytest.raises(ParameterError, match=r"expected a divisor of 2 shards, got 4\. Start 2 processes or fewer"):
        Shards(Rank(0, 4), 2)


def test_sums_are_those_of_the_tree() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(50).astype(np.float32) for _ in range(8)]
    given = TreeSum(gpucnn.get_backend("cpu"))
    reused = np.empty(50, np.float32)
    for part in parts:
        reused[:] = part
        given.add([reused], keep=False)
    a, b, c, d = (parts[i] + parts[i + 1] for i in range(0, 8, 2))
    np.testing.assert_array_equal(given.result()[0], (a + b) + (c + d))


@pytest.mark.parametrize("size", [16, 10, 3, 1])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip_norm": 0.01}, {"ema": 0.5}])
def test_the_update_is_that_of_the_whole_batch(size: int, options: dict[str, Any]) -> None:
    nets = []
    for shards in (1, 4):
        net = network()
        loop = loop_of(net, batches([size, size]), shards, **options)
        (values,) = loop.run(1)
        with loop.averaged():
            nets.append((weights(net), values["loss"], values["accuracy"], loop._running.count, loop._running.last))
    for whole, cut in zip(*nets, strict=True):
        np.testing.assert_allclose(cut, whole, rtol=2e-5, atol=2e-7)


def test_parameters_without_a_gradient_stay_without_one() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    net[0].weight.requires_grad_(False)
    before = net[0].weight.numpy()
    loop_of(net, batches([8]), 2).run(1)
    assert net[0].weight.grad is None
    assert net[0].bias.grad is not None
    np.testing.assert_array_equal(net[0].weight.numpy(), before)


def test_statistics_of_batch_norm_are_averaged_over_shards() -> None:
    net = network(nn.BatchNorm2d(4))
    ((x, y),) = batches([10])
    conv = net[0](gpucnn.tensor(x)).detach().numpy()
    wanted_mean, wanted_var = np.zeros(4), np.zeros(4)
    for part in (conv[:5], conv[5:]):
        wanted_mean += 0.5 * 0.1 * part.mean((0, 2, 3), dtype=np.float64)
        wanted_var += 0.5 * (0.9 + 0.1 * part.astype(np.float64).var((0, 2, 3), ddof=1))
    loop_of(net, [(x, y)], 2).run(1)
    np.testing.assert_allclose(net[1].running_mean.numpy(), wanted_mean, rtol=1e-5)
    np.testing.assert_allclose(net[1].running_var.numpy(), wanted_var, rtol=1e-5)
    assert net[1].num_batches_tracked.item() == 1


def test_a_batch_smaller_than_the_shards_keeps_finite_statistics() -> None:
    net = network(nn.BatchNorm2d(4))
    loop_of(net, batches([3]), 8).run(1)
    assert np.isfinite(weights(net)).all()
    assert net[1].num_batches_tracked.item() == 1


def test_dropout_is_drawn_by_seed_step_and_shard() -> None:
    keys = {tuple(draws_of(7, step, shard).next_key()) for step in range(20) for shard in range(64)}
    assert len(keys) == 20 * 64
    runs = []
    for interrupted in (False, True):
        net = network(nn.Dropout(0.5))
        loop = loop_of(net, batches([8, 8]), 4, generator=Generator(3))
        if interrupted:  # the loop that goes on is another
            loop.run(1)
            state = loop.state_dict()
            loop = loop_of(net, batches([8, 8]), 4, generator=Generator(3))
            loop.load_state_dict(state)
        loop.run(2)
        runs.append(weights(net))
    np.testing.assert_array_equal(*runs)


def test_dropout_with_a_generator_of_its_own_is_refused() -> None:
    net = network(nn.Dropout(0.5, generator=Generator(1)))
    with pytest.raises(ParameterError, match="shards: layer 1: expected dropout without a generator of its own"):
        loop_of(net, batches([8]), 2)


def test_a_loop_with_its_own_update_is_refused() -> None:
    class Own(Loop):
        def update(self, x: Any, y: Any) -> Any:
            return super().update(x, y)

    net = network()
    with pytest.raises(ParameterError, match="Loop: shards: expected 1 for a loop with its own update, got 2"):
        Own(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), batches([8]), shards=2)


def test_a_loss_that_is_not_finite_in_one_shard_changes_no_parameter() -> None:
    net = network()
    before = weights(net)
    ((x, y),) = batches([8])
    x[7] = np.nan
    with pytest.raises(gpucnn.errors.DivergedError):
        loop_of(net, [(x, y)], 4).run(1)
    np.testing.assert_array_equal(weights(net), before)


def test_half_precision_and_the_loss_scale() -> None:
    found = []
    for shards in (1, 4):
        net = network().to("float16")
        given = [(x.astype(np.float16), y) for x, y in batches([16, 16])]
        loop_of(net, given, shards, scale=LossScale(gpucnn.get_backend("cpu"))).run(1)
        found.append(weights(net).astype(np.float32))
    np.testing.assert_allclose(*found, rtol=2e-3, atol=2e-3)


class OwnDescent:
    """An optimiser that knows nothing of gpucnn's."""

    def __init__(self, parameters: Any) -> None:
        self.parameters = list(parameters)

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        with gpucnn.no_grad():
            for p in self.parameters:
                p -= 0.1 * p.grad


def test_an_optimiser_of_ones_own() -> None:
    found = []
    for make in (OwnDescent, lambda parameters: optim.SGD(parameters, lr=0.1)):
        net = network()
        Loop(net, nn.CrossEntropyLoss(), make(net.parameters()), batches([10]), [Accuracy()], shards=4).run(1)
        found.append(weights(net))
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-7)
