"""Counts of what passes between host and device, so that a test can say "no transfer happens inside a step"."""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator

from . import capture
from .order import Order


@dataclasses.dataclass
class Transfers:
    """Every one of these makes the host wait, or makes a stream capture fail.

    `to_device`: asarray/array of host data, `set`, host arrays and lists used as indices or assigned through an index.
    `to_host`: get, asnumpy, item, tolist, float, int, bool, print, and what CuPy reads behind the caller's back: the
    number of elements that a boolean mask selects or that nonzero, unique and their like return, and each side of a
    sliding_window_view.
    `waits`: synchronize() on a stream, a device or an event.
    Not so `copies`, which are no part of the total: `set` from pinned memory, done while the host goes on.
    """

    to_device: int = 0
    to_host: int = 0
    waits: int = 0
    copies: int = 0

    @property
    def total(self) -> int:
        return self.to_device + self.to_host + self.waits

    def reset(self) -> None:
        self.to_device = self.to_host = self.waits = self.copies = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator["Transfers"]:
        """Counts what happens inside the block; the object yielded stays as it was at the block's end."""
        before = dataclasses.replace(self)
        inside = Transfers()
        try:
            yield inside
        finally:
            for field in dataclasses.fields(self):
                setattr(inside, field.name, getattr(self, field.name) - getattr(before, field.name))


class _Refusing(Transfers):
    """The counts of the process; whatever would be counted is refused while a stream captures."""

    def __setattr__(self, name: str, value: int) -> None:
        if value > getattr(self, name, value):
            if name == "waits":
                capture.refuse("a wait")
            capture.refuse_transfer("D2H" if name == "to_host" else "H2D")
        super().__setattr__(name, value)


transfers = _Refusing()


def _current_stream() -> int:
    from .cuda import get_current_stream

    return get_current_stream().key


streams = Order(_current_stream)


class Launches:
    """How often CuPy would start work on the device, by what starts it: a kernel's name, or that of CuPy's function.

    Each function that makes an array, each copy, fill and assignment counts as one. CuPy may need more: two for the sum
    of very many values, one more for an operand that it has to copy first. What a graph holds counts when it is recorded;
    its launch is one.
    """

    def __init__(self) -> None:
        self.by_name: collections.Counter[str] = collections.Counter()

    def note(self, name: str) -> None:
        self.by_name[name] += 1
        streams.work()

    @contextlib.contextmanager
    def counted(self) -> Iterator[collections.Counter[str]]:
        """Counts what happens inside the block; the Counter yielded is filled at the block's end."""
        before, inside = collections.Counter(self.by_name), collections.Counter[str]()
        try:
            yield inside
        finally:
            inside.update(self.by_name - before)


launches = Launches()
