"""Data on CUDA: batches taken by a count on the device, sums of an epoch, and batches copied while the step before computes.

On the stand-in for CuPy, which notices where a stream or the host does not wait for a copy, and on a GPU where there is one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from oracles import assert_close

from gpucnn.backend import Backend
from gpucnn.backend.cuda import prefetch

on_devices = pytest.mark.parametrize(
    "backend", ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True
)
RNG = np.random.default_rng
IMAGES, LABELS = RNG(0).integers(0, 256, (9, 2, 3, 4), np.uint8), RNG(1).integers(0, 5, 9)
SCALE, SHIFT = np.array([0.5, 2.0], "f"), np.array([1.0, -1.0], "f")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stored", ["uint8", "float32"])
@pytest.mark.parametrize(("place", "count"), [(0, 4), (4, 4), (8, 1), (0, 9)])
def test_the_next_images_of_an_order(backend: Backend, place: int, count: int, stored: str, dtype: str) -> None:
    order = RNG(2).permutation(9)
    given = [backend.asarray(one) for one in (IMAGES.astype(stored), LABELS, order, np.array([float(place)]))]
    scaling = [backend.asarray(one.astype(dtype)) for one in (SCALE, SHIFT)]
    backend.ran.clear()
    x, y = backend.gather_next(*given, count, *scaling, np.dtype(dtype))
    is_fast = backend.name != "cpu" and (stored, dtype) == ("uint8", "float32")
    assert backend.ran["gather_next.fast"] == is_fast
    assert (str(x.dtype), str(y.dtype)) == (dtype, "int64")
    chosen = order[place : place + count]
    expected = IMAGES[chosen] * SCALE[:, None, None].astype(np.float64) + SHIFT[:, None, None]
    assert_close(backend.to_host(x), expected, 1e-6)
    assert backend.to_host(y).tolist() == LABELS[chosen].tolist()


@on_devices
def test_beyond_the_order_and_the_images_there_is_nothing(backend: Backend) -> None:
    order = np.array([3, 99, -1, 2])
    given = [backend.asarray(one) for one in (IMAGES, LABELS, order, np.zeros(1), SCALE, SHIFT)]
    x, y = backend.gather_next(*given[:4], 6, *given[4:], np.dtype("float32"))
    assert np.isnan(backend.to_host(x)).all((1, 2, 3)).tolist() == [False, True, True, False, True, True]
    assert backend.to_host(y).tolist() == [LABELS[3], -1, -1, LABELS[2], -1, -1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 10), (300, 3), (513, 2)])
def test_sums_of_an_epoch(backend: Backend, shape: tuple[int, int], dtype: str) -> None:
    logits = RNG(0).integers(0, 4, shape).astype(dtype)  # with equals: the first is the answer
    logits[RNG(1).random(shape) < 0.1] = np.nan
    labels, loss = RNG(2).integers(0, shape[1], shape[0]), np.array(0.7, dtype)
    sums = backend.asarray(np.array([1.5, 2, 3, 9]))
    backend.ran.clear()
    backend.update_metrics(sums, *(backend.asarray(one) for one in (loss, logits, labels)))
    assert backend.ran["update_metrics.fast"] == (backend.name != "cpu" and dtype == "float32")
    right = sum(int(row.argmax()) == label for row, label in zip(logits, labels, strict=True))
    expected = [1.5 + float(loss) * shape[0], 2 + right, 3 + shape[0], float(loss)]
    np.testing.assert_allclose(backend.to_host(sums), expected, rtol=1e-15)


def test_a_data_set_fits_where_half_of_the_free_memory_is_enough(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin.xp.cuda.runtime, "memGetInfo", lambda: (1000, 9000))
    monkeypatch.setattr(type(standin.xp.get_default_memory_pool()), "free_bytes", lambda self: 200)
    assert standin.fits(600)
    assert not standin.fits(601)


# --- batches from the host --------------------------------------------------------------------------------------------


def host_batches(sizes: list[int], pixels: int = 3) -> Iterator[tuple[Any, Any]]:
    for i, size in enumerate(sizes):
        yield np.full((size, 1, pixels, pixels), i, np.uint8), np.full(size, -i)


def run(backend: Backend, module: Any, batches: Any) -> list[list[int]]:
    """Stream batches, use each on the device, and return what was seen there, read at the end."""
    seen = [(images.sum((1, 2, 3)), labels + 0) for images, labels in module.stream(backend, batches)]
    return [[*backend.to_host(images).tolist(), *backend.to_host(labels).tolist()] for images, labels in seen]


def expected(sizes: list[int], pixels: int = 3) -> list[list[int]]:
    return [[pixels * pixels * i] * size + [-i] * size for i, size in enumerate(sizes)]


@on_devices
@pytest.mark.parametrize("sizes", [[4, 4, 4, 4, 4], [4, 4, 1], [1, 4, 2, 5], [3], []])
def test_every_batch_arrives_whole(backend: Backend, sizes: list[int]) -> None:
    assert run(backend, prefetch, host_batches(sizes)) == expected(sizes)


@on_devices
def test_images_that_grow(backend: Backend) -> None:
    sizes = [2, 2, 2]
    batches = [*host_batches(sizes, 3), *host_batches(sizes, 5)]
    assert run(backend, prefetch, batches) == expected(sizes, 3) + expected(sizes, 5)


def test_the_host_moves_nothing_itself_and_waits_for_the_copy_before_the_last_only(standin: Any) -> None:
    arrived = standin.stream(host_batches([4] * 6))
    for _ in range(3):
        next(arrived)
    with standin.xp.standin.transfers.counted() as inside, standin.xp.standin.launches.counted() as launches:
        next(arrived)
    assert (inside.copies, inside.to_device, inside.to_host, inside.waits) == (2, 0, 0, 1)
    assert not launches


def test_a_batch_is_read_when_the_step_before_is_launched(standin: Any) -> None:
    read: list[int] = []

    def batches() -> Iterator[tuple[Any, ...]]:
        for i in range(4):
            read.append(i)
            yield (np.full(3, i),)

    for i, _ in enumerate(standin.stream(batches())):
        assert read == list(range(i + 1)), "nothing is read ahead: an interrupted run saw no more than it used"


def test_an_error_in_reading_is_the_users_and_leaves_no_copy_under_way(standin: Any) -> None:
    def batches() -> Iterator[tuple[Any, ...]]:
        yield (np.ones(3),)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(standin.stream(batches()))


ORDERS = {
    "the host waits before it fills a buffer": ("self._copied.synchronize()", "the host changed pinned memory"),
    "a copy waits for the step that uses the buffer": ("self._copies.wait_event(self._used)", "what used the memory"),
    "what is new on the device waits for its last user": ("        self.release()", "what used the memory"),
    "a step says when it ends": ("            slot.release()", "what used the memory"),
    "a step waits for its batch": (".wait_event(self._copied)", "does not wait for the copy"),
    "the copy is finished before its event": ("self._copied.record(self._copies)", "does not wait for the copy"),
}


def without(text: str) -> ModuleType:
    """Return ``prefetch`` without the one line that ends with ``text``."""
    path = Path(prefetch.__file__)
    lines = path.read_text().splitlines()
    found = [i for i, line in enumerate(lines) if line.endswith(text)]
    found = [i for i in found if not text.startswith(" ") or lines[i] == text]
    assert len(found) == 1, text
    lines[found[0]] = lines[found[0]][: len(lines[found[0]]) - len(lines[found[0]].lstrip())] + "pass"
    spec = importlib.util.spec_from_loader("faulty_feeding", None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile("\n".join(lines), str(path), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("order", ORDERS)
def test_each_order_is_needed(standin: Any, order: str) -> None:
    from standin.order import Race

    line, said = ORDERS[order]
    assert run(standin, prefetch, host_batches([4] * 6)) == expected([4] * 6)
    standin.xp.zeros(4) + 1  # work that may still use memory that is new to the copies
    with pytest.raises(Race, match=said):
        run(standin, without(line), host_batches([4] * 6))
