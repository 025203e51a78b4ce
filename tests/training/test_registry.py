"""Optimisers and schedules by name, with options in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import small_splits

from gpucnn import nn, optim
from gpucnn.errors import UsageError
from gpucnn.training import RunFolder, Schedule, Settings, Trainer
from gpucnn.training.registry import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule

STEPS, EPOCH = 60, 10


def rates(text: str, losses: list[float] | None = None) -> list[float]:
    """Return the learning rate of each step of a run of six epochs of ten steps."""
    optimizer = optim.SGD(nn.Linear(1, 1, device="cpu").parameters(), lr=1.0)
    schedule = Schedule(make_schedule(text, optimizer, STEPS, EPOCH))
    seen = []
    for step in range(STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        schedule.step(None, 1)
        if step % EPOCH == EPOCH - 1:
            schedule.epoch(None, {"loss": (losses or [0.0] * 6)[step // EPOCH]})
    return seen


def test_constant_stays() -> None:
    assert set(rates("constant")) == {1.0}


def test_warm_up_rises_in_a_line_and_stays() -> None:
    wanted = [0.1 + 0.9 * step / 20 for step in range(20)] + [1.0] * 40
    np.testing.assert_allclose(rates("warm-up:epochs=2"), wanted)
    np.testing.assert_allclose(rates("constant:warmup=2"), wanted)


def test_cosine_falls_to_nothing_and_may_warm_up() -> None:
    np.testing.assert_allclose(rates("cosine"), [(1 + np.cos(np.pi * step / 60)) / 2 for step in range(60)])
    np.testing.assert_allclose(
        rates("cosine:warmup=1,end=0.5"),
        [0.1 + 0.09 * step for step in range(10)] + [0.75 + 0.25 * np.cos(np.pi * step / 50) for step in range(50)],
    )


def test_polynomial_and_exponential() -> None:
    np.testing.assert_allclose(rates("polynomial:power=2"), [(1 - step / 60) ** 2 for step in range(60)])
    np.testing.assert_allclose(rates("exponential:gamma=0.1"), [10 ** (-step / 10) for step in range(60)])


def test_steps() -> None:
    np.testing.assert_allclose(rates("step"), [1.0] * 20 + [0.1] * 20 + [0.01] * 20)
    np.testing.assert_allclose(rates("step:epochs=4,gamma=0.5"), [1.0] * 40 + [0.5] * 20)
    np.testing.assert_allclose(rates("multi-step"), [1.0] * 30 + [0.1] * 15 + [0.01] * 15)
    np.testing.assert_allclose(rates("multi-step:epochs=1+5,gamma=0.5"), [1.0] * 10 + [0.5] * 40 + [0.25] * 10)
    np.testing.assert_allclose(rates("multi-step:epochs=2"), [1.0] * 20 + [0.1] * 40)
    rise = [0.1 + 0.09 * step for step in range(10)]
    np.testing.assert_allclose(rates("multi-step:warmup=1,epochs=3+4"), rise + [1.0] * 20 + [0.1] * 10 + [0.01] * 20)
    np.testing.assert_allclose(rates("multi-step:warmup=1"), rise + [1.0] * 20 + [0.1] * 15 + [0.01] * 15)


def test_a_plateau_lowers_the_rate_after_the_epochs_that_brought_nothing() -> None:
    losses = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0]
    np.testing.assert_allclose(rates("plateau:patience=1,factor=0.5", losses), [1.0] * 40 + [0.5] * 20)


def test_one_cycle_peaks_at_the_learning_rate() -> None:
    assert max(rates("one-cycle:pct_start=0.5")) == pytest.approx(1.0)
    assert int(np.argmax(rates("one-cycle:pct_start=0.5"))) == 29


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimiser_by_its_name(name: str) -> None:
    made = make_optimizer(name, nn.Linear(2, 1, device="cpu"), 0.25, weight_decay=0.5)
    assert type(made).__name__.lower() == name
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.25, 0.5)


def test_options_of_an_optimiser() -> None:
    net = nn.Linear(2, 1, device="cpu")
    group = make_optimizer("sgd:nesterov=true,momentum=0.5", net, 0.1).param_groups[0]
    assert (group["nesterov"], group["momentum"]) == (True, 0.5)
    assert make_optimizer("adam:betas=0.8+0.9", net, 0.1).param_groups[0]["betas"] == (0.8, 0.9)
    assert Settings(optimizer="adamw").resolved().weight_decay == 0.01
    assert Settings(optimizer="adamw", weight_decay=0.0).resolved().weight_decay == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "adm"}, "Did you mean adam?"),
        ({"schedule": "cosin"}, "Did you mean cosine?"),
        ({"optimizer": "sgd:nesterof=true"}, "optimizer sgd: option: .*Did you mean nesterov?"),
        ({"optimizer": "sgd:params=3"}, "expected OPTION=VALUE with lr"),
        ({"optimizer": "adam:betas=high"}, "optimizer adam"),
        ({"optimizer": "rmsprop:alpha=-1"}, "alpha"),
        ({"schedule": "cosine:warmup=-1"}, "schedule cosine"),
        ({"schedule": "cosine:warmup=long"}, "schedule cosine"),
        ({"schedule": "cosine:warmup=inf"}, "schedule cosine"),
        ({"schedule": "step:epochs=1e999"}, "schedule step"),
        ({"schedule": "multi-step:epochs=1+nan"}, "schedule multi-step"),
        ({"schedule": "step:gamma"}, "expected OPTION=VALUE with warmup, epochs, gamma, got 'gamma'"),
        ({"schedule": "plateau:patience=x"}, "patience"),
    ],
)
def test_mistakes(change: dict[str, Any], said: str) -> None:
    from gpucnn.training import check_named

    with pytest.raises(UsageError, match=said):
        check_named(Settings(**change).resolved())


@pytest.mark.bits
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_resumed_is_the_run_that_went_on(tmp_path: Path, schedule: str) -> None:
    def run(folder: str, stop_after: int | None = None) -> Trainer:
        settings = Settings(epochs=3, schedule=schedule, optimizer="rmsprop", device="cpu", batch_size=32, validation=0)
        trainer = Trainer(settings.resolved(), small_splits(96, 10), RunFolder(tmp_path / folder))
        if stop_after is not None:
            finish, done = trainer._finish_epoch, []

            def finish_and_stop() -> None:
                finish()
                done.append(1)
                if len(done) == stop_after:
                    raise KeyboardInterrupt

            trainer._finish_epoch = finish_and_stop  # type: ignore[method-assign]
        return trainer

    whole = run("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        run("parts", stop_after=1).train()
    resumed = run("parts")
    resumed.resume()
    resumed.train()
    for name, values in whole.net.state_dict().items():
        assert np.array_equal(values, resumed.net.state_dict()[name]), name
