"""The memory of captured steps: a pool a function, given back, and what happens where there is too little."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from conftest import replace_backend

import gpucnn
from gpucnn import Tensor, nn, optim
from gpucnn.backend import Backend, get_backend
from gpucnn.errors import OutOfMemoryError


@pytest.fixture
def second(standin: Backend) -> Iterator[Any]:
    """The second of two GPUs."""
    from standin import devices

    with ExitStack() as stack:
        stack.enter_context(devices.several(2))
        replace_backend(stack, "cuda:1", None)
        with gpucnn.use("cuda:1") as backend:
            yield backend
        gc.collect()  # while the device is there


def square(net: nn.Module) -> Any:
    return gpucnn.capture(lambda x: net(x) ** 2, state=[net])


def test_one_pool_serves_all_variants_and_is_freed_on_its_device_with_the_function(second: Any) -> None:
    step = square(nn.Linear(3, 2))
    for size in (1, 2, 3):
        step(gpucnn.tensor(np.ones((size, 3), np.float32)))
    (pool,) = second._pools.values()
    pool.freed_on.clear()
    del step
    gc.collect()
    assert pool.freed_on
    assert set(pool.freed_on) == {1}
    assert not second._pools


def test_a_pool_whose_memory_is_still_used_is_kept_until_it_is_free(second: Any) -> None:
    step = square(nn.Linear(3, 2))
    step(gpucnn.tensor(np.ones((1, 3), np.float32)))
    (pool,) = second._pools.values()
    pool.total_bytes = lambda: 512
    del step
    gc.collect()
    assert list(second._pools.values()) == [pool]
    pool.total_bytes = lambda: 0
    second.free_memory()
    assert not second._pools


def test_free_memory_frees_every_pool(second: Any) -> None:
    steps = [square(nn.Linear(3, 2)) for _ in range(2)]
    for step in steps:
        step(gpucnn.tensor(np.ones((1, 3), np.float32)))
    pools = [second.xp.get_default_memory_pool(), *second._pools.values()]
    assert len(pools) == 3
    for pool in pools:
        pool.freed_on.clear()
    second.free_memory()
    assert [pool.freed_on for pool in pools] == [[1]] * 3


def test_a_capture_that_failed_gives_its_memory_back(second: Any) -> None:
    net = nn.Linear(3, 2)
    step = gpucnn.capture(lambda x: net(x) * net(x).sum().item(), state=[net])
    with pytest.warns(UserWarning, match="runs as usual, because"):
        step(gpucnn.tensor(np.ones((1, 3), np.float32)))
    (pool,) = second._pools.values()
    assert pool.freed_on == [1]  # it was made for the capture


@pytest.mark.parametrize("where", ["watch", "save", "bits"])
def test_where_memory_is_too_small_the_eager_step_gets_all_of_it(
    second: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """No array of the run that failed is alive when the step runs again, and its pool was emptied."""
    net = nn.Linear(3, 2)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    alive: list[weakref.ref[Any]] = []
    seen: list[tuple[int, bool]] = []

    def step(x: Tensor) -> Tensor:
        seen.append((sum(one() is not None for one in alive), all(p.freed_on for p in second._pools.values())))
        y = net(x)
        alive.append(weakref.ref(y.array))
        optimizer.zero_grad()
        loss: Tensor = (y * y).sum()
        loss.backward()
        optimizer.step()
        if where == "watch" and len(seen) == 1:
            raise OutOfMemoryError("cuda:1: 8 bytes asked")
        return loss

    if where != "watch":
        from gpucnn.captured import _Held

        def no_memory(*arguments: Any) -> Any:
            raise OutOfMemoryError("cuda:1: 8 bytes asked")

        monkeypatch.setattr(_Held, where, no_memory)
    weight = net.weight.numpy()
    with pytest.warns(UserWarning, match="runs as usual, because OutOfMemoryError: cuda:1: 8 bytes asked"):
        gpucnn.capture(step, state=[net, optimizer])(gpucnn.tensor(np.ones((1, 3), np.float32)))
    assert seen[-1] == (0, True)
    assert len(seen) == (1 if where == "save" else 2)
    assert optimizer.steps == 1
    assert not np.array_equal(net.weight.numpy(), weight)


def test_a_device_without_graphs_keeps_nothing() -> None:
    assert get_backend("cpu").free_memory() is None  # type: ignore[func-returns-value]
