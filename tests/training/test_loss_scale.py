"""The factor on the loss in float16 halves where a gradient overflows, doubles after good steps, and waits for nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.autograd import no_grad
from gpucnn.backend import Backend
from gpucnn.training import loss_scale, train_step
from gpucnn.training.loss_scale import LossScale


def lenet() -> tuple[nn.Module, optim.Optimizer, Any, Any]:
    gpucnn.manual_seed(2)
    net = models.build("simple_convnet:filter_num=2,stride=3,hidden=8,init_std=0.2").to("float16")
    x = gpucnn.tensor(np.random.default_rng(0).standard_normal((4, 1, 28, 28)).astype(np.float16))
    return net, optim.SGD(net.parameters(), lr=0.01), x, gpucnn.tensor([1, 2, 3, 4])


def values(net: nn.Module) -> list[bytes]:
    return [array.tobytes() for array in net.state_dict().values()]


def test_an_overflow_skips_the_step_and_halves_the_factor(backend: Backend) -> None:
    net, optimizer, x, y = lenet()
    scale = LossScale(backend)
    scale.load(2.0**24, 7)
    before = values(net)
    loss, _ = train_step(net, nn.CrossEntropyLoss(), optimizer, x, y, scale)
    assert np.isfinite(loss.item())
    assert values(net) == before
    assert scale.state() == {"scale": 2.0**23, "good": 0}
    for _ in range(12):
        train_step(net, nn.CrossEntropyLoss(), optimizer, x, y, scale)
    assert values(net) != before
    assert all(np.isfinite(array).all() for array in net.state_dict().values())
    assert scale.state()["good"] > 0


def test_the_factor_doubles_after_good_steps_up_to_a_limit(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 3)
    scale, good = LossScale(backend), gpucnn.tensor(np.array(True))
    scale.load(loss_scale.MOST / 2, 0)
    seen = []
    for _ in range(6):
        scale.adjust(good)
        seen.append((scale.state()["scale"] / loss_scale.MOST, scale.state()["good"]))
    assert seen == [(0.5, 1), (0.5, 2), (1, 0), (1, 1), (1, 2), (1, 0)]
    scale.load(1.0, 2)
    scale.adjust(gpucnn.tensor(np.array(False)))
    assert scale.state() == {"scale": 1, "good": 0}, "the factor never hides what 1 does not"


def test_the_update_is_the_same_whatever_the_factor(backend: Backend) -> None:
    found = []
    for factor in (2.0**4, 2.0**9):
        net, optimizer, x, y = lenet()
        scale = LossScale(backend)
        scale.load(factor, 0)
        train_step(net, nn.CrossEntropyLoss(), optimizer, x, y, scale)
        found.append([array.astype(np.float64) for array in net.state_dict().values()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4)


def test_nothing_waits_for_the_device(standin: Backend) -> None:
    with gpucnn.use(standin):
        net, optimizer, x, y = lenet()
        scale, loss_fn = LossScale(standin), nn.CrossEntropyLoss()
        train_step(net, loss_fn, optimizer, x, y, scale)
        with standin.xp.standin.transfers.counted() as transfers:
            train_step(net, loss_fn, optimizer, x, y, scale)
    assert transfers.total == 0


@pytest.mark.bits
@pytest.mark.parametrize("backend", ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
def test_captured_steps_are_ordinary_ones(backend: Backend) -> None:
    def trained(captured: bool) -> list[Any]:
        net, optimizer, x, y = lenet()
        scale, loss_fn = LossScale(backend), nn.CrossEntropyLoss()
        scale.load(2.0**18, 0)

        def step(x: Any, y: Any) -> Any:
            return train_step(net, loss_fn, optimizer, x, y, scale)

        with no_grad():
            for parameter in net.parameters():
                parameter.copy_(parameter * 0.5)  # between the optimiser and the first step
        run = gpucnn.capture(step, state=[net, loss_fn, optimizer, scale]) if captured else step
        losses = [run(x, y)[0].numpy().tobytes() for _ in range(5)]
        with no_grad():
            for parameter in net.parameters():
                parameter.copy_(parameter * 0.5)  # between replays
        losses += [run(x, y)[0].numpy().tobytes() for _ in range(2)]
        if captured:
            assert None not in run._variants.values()
        return [*losses, *values(net), scale.state(), {k: a.tobytes() for k, a in optimizer.state_arrays().items()}]

    assert trained(captured=True) == trained(captured=False)
