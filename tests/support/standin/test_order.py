"""Copies on another stream: what an event, a wait or the host must order, and that each of these, left out, is noticed."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="the stand-in takes names and signatures from the real CuPy (no GPU needed)")

from . import install, make_cupy, uninstall
from .order import Race
from .signatures import real_cupy, real_cupyx

xp: Any = make_cupy()


def pinned(values: Any) -> Any:
    install()
    try:
        import cupyx

        array = cupyx.empty_pinned(len(values), "float32")
    finally:
        uninstall()
    assert np.isnan(array).all()
    array[...] = values
    return array


class Copy:
    """A copy of pinned memory to an array that the current stream has used, by a stream of its own."""

    def __init__(self) -> None:
        self.here, self.there = xp.cuda.get_current_stream(), xp.cuda.Stream(non_blocking=True)
        self.device, self.host = xp.zeros(3, np.float32), pinned([1, 2, 3])

    def used(self) -> "Copy":
        self.there.wait_event(self.here.record())
        return self

    def send(self) -> Any:
        self.device.set(self.host, stream=self.there)
        return self.there.record(xp.cuda.Event(disable_timing=True))


def test_a_copy_that_is_waited_for_by_an_event() -> None:
    copy = Copy().used()
    with xp.standin.transfers.counted() as inside:
        copied = copy.send()
        copy.here.wait_event(copied)
        doubled = copy.device * 2
    assert (inside.total, inside.copies) == (0, 1)
    assert doubled.get().tolist() == [2, 4, 6]
    copied.synchronize()
    copy.host[...] = 5
    copy.used().send().synchronize()
    assert copy.device.get().tolist() == [5, 5, 5]


@pytest.mark.parametrize("how", ["stream", "device", "all", "blocking stream", "through a third stream"])
def test_other_ways_to_wait(how: str) -> None:
    copy = Copy()
    if how == "blocking stream":  # which keeps step with the null stream
        copy.there = xp.cuda.Stream()
    else:
        copy.used()
    copied = copy.send()
    if how == "stream":
        copy.there.synchronize()
    elif how == "device":
        xp.cuda.Device(0).synchronize()
    elif how == "all":
        xp.cuda.runtime.deviceSynchronize()
    elif how == "through a third stream":
        third = xp.cuda.Stream(non_blocking=True)
        third.wait_event(copied)
        copy.here.wait_event(third.record())
    assert (copy.device + 1).get().tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x + 1, lambda x: x.get(), lambda x: x.copy(), lambda x: x[1:] * 2, lambda x: x.fill(0), lambda x: x.sum(),
        lambda x: xp.concatenate([x, x]), lambda x: x.__setitem__(0, 1), lambda x: xp.exp(x, out=x), lambda x: float(x[0]),
    ],
)  # fmt: skip
def test_work_that_does_not_wait_for_the_copy(work: Any) -> None:
    copy = Copy().used()
    copy.send()
    with pytest.raises(Race, match="does not wait for the copy"):
        work(copy.device)
    copy.there.synchronize()
    work(copy.device)


def test_asking_for_the_layout_is_no_work() -> None:
    copy = Copy().used()
    copy.send()
    part = copy.device[1:].reshape(1, 2).T
    assert (part.shape, part.dtype, len(part), part.flags.c_contiguous) == ((2, 1), np.float32, 2, True)


def test_a_copy_into_memory_that_is_still_used() -> None:
    with pytest.raises(Race, match="does not wait for what used the memory"):
        Copy().send()
    copy = Copy().used()
    copy.here.wait_event(copy.send())
    copy.device * 2
    with pytest.raises(Race, match="does not wait for what used the memory"):
        copy.send()


def test_two_copies_on_two_streams_into_one_array() -> None:
    copy = Copy().used()
    copy.send()
    copy.there = xp.cuda.Stream(non_blocking=True)
    with pytest.raises(Race, match="does not wait for what used the memory"):
        copy.used().send()


def test_pinned_memory_that_the_host_changes_too_early() -> None:
    copy = Copy().used()
    copied = copy.send()
    copy.here.wait_event(copied)  # the stream waits, the host does not
    copy.host[1] = 7
    with pytest.raises(Race, match="the host changed pinned memory"):
        copied.synchronize()


def test_a_graph_uses_what_was_recorded_when_it_is_launched() -> None:
    copy = Copy().used()
    copy.here.wait_event(copy.send())
    with xp.cuda.using_allocator(xp.cuda.MemoryPool().malloc), xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        doubled = copy.device * 2
        graph = stream.end_capture()
    graph.launch()
    assert doubled.get().tolist() == [2, 4, 6]
    copy.host[...] = 4
    copied = copy.used().send()
    with pytest.raises(Race, match="does not wait for the copy"):
        graph.launch()
    copy.here.wait_event(copied)
    graph.launch()
    assert doubled.get().tolist() == [8, 8, 8]


def test_memory_that_is_not_pinned_makes_the_host_wait() -> None:
    copy = Copy().used()
    with xp.standin.transfers.counted() as inside:
        copy.device.set(np.ones(3, np.float32), stream=copy.there)
    assert (inside.to_device, inside.copies) == (1, 0)


def test_names_are_cupys_and_an_event_without_timing_tells_no_time() -> None:
    assert hasattr(real_cupyx(), "empty_pinned")
    event = xp.cuda.Event(disable_timing=True)
    event.record()
    with pytest.raises(real_cupy().cuda.runtime.CUDARuntimeError):
        xp.cuda.get_elapsed_time(event, event)
